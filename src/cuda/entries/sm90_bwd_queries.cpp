// See sm90_bwd_queries.h. Tiles follow from what registers hold.
#include "cuda/entries/sm90_bwd_queries.h"

#include "cuda/entries/entry.h"
#include "cuda/entries/forward_choices.h"
#include "cuda/entries/forward_params.h"
#include "cuda/jit/wgmma_text.h"

namespace flash_attn::cuda {
namespace {

constexpr int kWidest = 128;

Sm90ForwardConfig configure(const Problem& p) {
  Sm90ForwardConfig c;
  c.dtype = c.o_dtype = p.dtype;
  c.d = c.row_d = round_up_16(p.d);
  c.d_v = c.row_d_v = round_up_16(p.d_v);
  c.mask = key_mask_of(p);
  c.has_lengths = reads_lengths(p);
  c.makes_dq = true;
  c.tile_k = c.d <= 64 ? 96 : (c.mask == KeyMask::interval ? 64 : 80);
  c.stages = 2;
  c.rotates_rows = c.mask == KeyMask::right;
  c.shares_q_buffer = true;
  c.consumer_registers = 224;
  c.producer_registers = 56;
  return c;
}

// Rows as q's, with other strides and columns.
MapShape map_like(const MapShape& q, const Axes& axes, int64_t columns) {
  MapShape map = q;
  map.axes = axes;
  map.columns = columns;
  // Where all batches' rows are one dimension, a single row's stride is that of the batches.
  if (map.has_lengths && map.rows <= 1 && map.batches > 1) map.axes.row = axes.batch;
  return map;
}

std::string matrix_instructions(const void* config) {
  const auto& c = *static_cast<const Sm90ForwardConfig*>(config);
  std::string text = wgmma_text(c.tile_k, c.dtype);
  if (c.d != c.tile_k) text += wgmma_text(c.d, c.dtype);
  return text;
}

}  // namespace

const KernelForm kQueryGradientsForm = {"sm90_bwd_queries",
                                        "cuda/kernels/sm90_bwd_queries.cuh",
                                        "Sm90ForwardConfig",
                                        "__launch_bounds__(kConfig.threads(), 1)",
                                        "const __grid_constant__ Sm90QueryArguments arguments",
                                        "sm90_query_gradients<Config>(arguments);",
                                        matrix_instructions};

Sm90QueryChoice choose_query_gradients(const Problem& p) {
  Sm90QueryChoice found;
  found.choice.config = configure(p);
  found.choice.maps = map_shapes(p, found.choice.config);
  const MapShape q = found.choice.maps.q;
  found.choice.maps.o = map_like(q, p.dq, p.d);
  found.dout = map_like(q, p.dout, p.d_v);
  return found;
}

bool serves_query_gradients(const Problem& p) {
  if (p.softcap > 0 || p.has_alibi || p.dropout_p > 0 || p.dq_dtype != p.dtype || p.accumulates_dq || p.max_s_k == 0) return false;
  if (round_up_16(p.d) != round_up_16(p.d_v) || p.d > kWidest || p.d_v > kWidest) return false;
  const Sm90QueryChoice found = choose_query_gradients(p);
  const Sm90Maps& maps = found.choice.maps;
  return find_fault(maps.o, p.dq_alignment) == MapFault::none &&
         (!found.choice.config.has_lengths || batch_rows(maps.o) == batch_rows(maps.q));
}

Status supports_query_gradients(const Problem& p) {
  if (serves_query_gradients(p)) return {};
  return unsupported(
      "separates_dq is 1 but a kernel of dq alone serves equal d and d_v up to %d, without softcap, ALiBi and dropout, and a dq of "
      "q's dtype that a tensor map can describe and nothing is added to",
      kWidest);
}

Sm90QueryArguments shape_query_gradients(const Problem& p, const DeviceInfo& device, const Sm90QueryChoice& choice) {
  Sm90QueryArguments to;
  to.params = shape_sm90_params(p, device, choice.choice);
  to.extras = sm90_extras(choice.choice);
  return to;
}

Status bind_query_gradients(const Problem& p, const Sm90QueryChoice& choice, const fa_attention_args& args,
                            const BackwardParams& params, Sm90QueryArguments* to) {
  bind_pointers(p, args, &to->params);
  to->row_lse2 = params.row_lse2;
  to->row_delta = params.row_delta;
  to->stat_rows = params.stat_rows;
  to->stat_tile = params.stat_tile;
  to->stat_tiles = params.stat_tiles;
  const Sm90Maps& maps = choice.choice.maps;
  FA_TRY(encode_map(maps.q, args.q, &to->q));
  FA_TRY(encode_map(maps.k, args.k, &to->k));
  FA_TRY(encode_map(maps.v, args.v, &to->v));
  FA_TRY(encode_map(maps.o, args.dq, &to->o));
  return encode_map(choice.dout, args.dout, &to->dout);
}

}  // namespace flash_attn::cuda
