// See backward_passes.h.
#include "cuda/entries/backward_passes.h"

#include "cuda/entries/entry.h"
#include "cuda/entries/forward_choices.h"
#include "cuda/entries/forward_params.h"

#include <algorithm>

namespace flash_attn::cuda {
namespace {

const KernelForm kPreForm = {"bwd_pre",
                             "cuda/kernels/bwd_pre.cuh",
                             "BackwardPreConfig",
                             "__launch_bounds__(kConfig.threads(), 3)",
                             "const __grid_constant__ BackwardParams params",
                             "backward_pre<kConfig>(params);"};
const KernelForm kPostForm = {"bwd_post",
                              "cuda/kernels/bwd_post.cuh",
                              "BackwardPostConfig",
                              "__launch_bounds__(kConfig.threads())",
                              "const __grid_constant__ BackwardParams params",
                              "backward_post<kConfig>(params);"};
const KernelForm kDeadForm = {"bwd_dead",
                              "cuda/kernels/bwd_dead.cuh",
                              "BackwardDeadConfig",
                              "__launch_bounds__(kConfig.threads())",
                              "const __grid_constant__ BackwardParams params",
                              "backward_dead<kConfig>(params);"};
const KernelForm kHeadsForm = {"bwd_heads",
                               "cuda/kernels/bwd_heads.cuh",
                               "BackwardHeadsConfig",
                               "__launch_bounds__(kConfig.threads())",
                               "const __grid_constant__ BackwardParams params",
                               "backward_heads<kConfig>(params);"};

constexpr int64_t kMostCount = (int64_t{1} << 31) - 256;
constexpr int kLeastStatTile = 16;

int64_t tiles(int64_t rows, int64_t tile) { return (rows + tile - 1) / tile; }

int64_t stat_rows_of(const Problem& p, int64_t tile) {
  return p.packed_q ? tiles(p.total_q + p.b * tile, tile) * tile : p.b * tiles(p.max_s_q, tile) * tile;
}

// Sizes of bookings in the scratch memory, each a multiple of 64 bytes.
struct Bookings {
  size_t lse2 = 0, delta = 0, top = 0, log = 0, large = 0, sums = 0, dout = 0, slopes = 0;
  size_t total() const {
    size_t sum = 0;
    for (const size_t bytes : {lse2, delta, top, log, large, sums, dout, slopes})
      if (__builtin_add_overflow(sum, bytes, &sum)) return SIZE_MAX;
    return sum;
  }
};

size_t product(int64_t rows, int64_t bytes) {
  size_t size = 0;
  if (__builtin_mul_overflow(static_cast<size_t>(rows), static_cast<size_t>(bytes), &size) || size > SIZE_MAX - 64) return SIZE_MAX;
  return (size + 63) / 64 * 64;
}

Bookings book(const Problem& p, const BackwardShape& shape) {
  int64_t rows = 0;
  if (__builtin_mul_overflow(p.h_q, stat_rows_of(p, shape.stat_tile), &rows)) rows = INT64_MAX;
  Bookings size;
  size.lse2 = size.delta = size.top = size.log = product(rows, 4);
  size.large = product(rows / kLeastStatTile, 4);  // room for the smallest tiles, so that bounds hold for all
  if (shape.sums_d > 0) size.sums = product(rows, int64_t{4} * shape.sums_d);
  if (shape.copies_dout) size.dout = product(rows, (p.d_v + 7) / 8 * 8 * dtype_bytes(p.dtype));
  if (p.has_dslopes) size.slopes = product(rows, 4);
  return size;
}

BackwardPreConfig pre_config(const Problem& p, const BackwardShape& shape) {
  BackwardPreConfig c;
  c.dtype = shape.copies_dout ? p.dtype : p.o_dtype;
  c.o_dtype = p.o_dtype;
  c.d_v = static_cast<int>(p.d_v);
  c.tile = shape.stat_tile;
  c.sums_d = shape.sums_d;
  const int64_t element = dtype_bytes(p.o_dtype);
  c.access = std::min(access_of(p.o, element, p.o_alignment), access_of(p.dout, element, p.dout_alignment));
  c.has_lengths = reads_lengths(p);
  return c;
}

BackwardPostConfig post_config(const Problem& p, const BackwardShape& shape) {
  BackwardPostConfig c;
  c.dq_dtype = p.dq_dtype;
  c.d = static_cast<int>(p.d);
  c.tile = shape.stat_tile;
  c.sums_d = shape.sums_d;
  c.access = access_of(p.dq, dtype_bytes(p.dq_dtype), p.dq_alignment);
  c.accumulates = p.accumulates_dq;
  c.has_lengths = reads_lengths(p);
  return c;
}

// Rows of dbias that belong to packed queries, each its own.
bool has_packed_bias_rows(const Problem& p) { return p.has_dbias && p.packed_q && p.dbias.row != 0; }

BackwardDeadConfig dead_config(const Problem& p) {
  BackwardDeadConfig c;
  c.dq_dtype = p.dq_dtype;
  c.dk_dtype = p.dk_dtype;
  c.dv_dtype = p.dv_dtype;
  c.d = static_cast<int>(p.d);
  c.d_v = static_cast<int>(p.d_v);
  const bool has_dead_queries = p.packed_q || p.has_input(FA_INPUT_SEQUSED_Q);
  const bool has_dead_keys =
      p.packed_k || p.has_input(FA_INPUT_SEQUSED_K) || p.has_input(FA_INPUT_LEFTPAD_K) || p.max_s_k < p.k_rows;
  c.clears_dq = has_dead_queries && !p.accumulates_dq;
  c.clears_dk = has_dead_keys && !p.accumulates_dk;
  c.clears_dv = has_dead_keys && !p.accumulates_dv;
  c.clears_dbias = has_packed_bias_rows(p);
  return c;
}

bool is_needed(const BackwardDeadConfig& c) { return c.clears_dq || c.clears_dk || c.clears_dv || c.clears_dbias; }

}  // namespace

Status check_backward_features(const Problem& p) {
  if (p.direction != Direction::backward) return unsupported("direction is FA_FORWARD but this kernel serves the backward");
  FA_TRY(check_room_features(p));
  // Blocks of the smallest tiles, and rows of dense keys.
  constexpr int64_t kLeastTile = 16;
  const struct {
    const char* what;
    int64_t heads, rows;
  } counts[] = {{"query heads of all requests times tiles of rows", p.b * p.h_q, tiles(std::max(p.max_s_q, p.max_s_k), kLeastTile)},
                {"requests times rows of k", std::max<int64_t>(p.b, 1), p.k_rows},
                {"d_bias rows times columns in tiles", p.has_dbias ? p.b * p.h_q : 0,
                 tiles(p.max_s_q, kLeastTile) * tiles(p.max_s_k, kLeastTile)}};
  for (const auto& count : counts) {
    if (count.heads == 0 || count.rows <= kMostCount / count.heads) continue;
    return unsupported("%s are %lld times %lld but GPU kernels serve up to %lld", count.what, static_cast<long long>(count.heads),
                       static_cast<long long>(count.rows), static_cast<long long>(kMostCount));
  }
  return {};
}

BackwardParams shape_backward_params(const Problem& p, const BackwardShape& shape) {
  BackwardParams to;
  static_cast<ForwardParams&>(to) = shape_params(p, p.dropout_p == 0);
  to.slots = static_cast<int>(p.h_q);
  to.pack = make_divisor(1);
  to.slot_group = make_divisor(static_cast<unsigned>(std::max<int64_t>(1, p.group)));
  to.splits = make_divisor(1);
  to.dout_axes = p.dout;
  to.dlse_axes = p.dlse;
  to.dq_axes = p.dq;
  to.dk_axes = p.dk;
  to.dv_axes = p.dv;
  to.dbias_axes = p.dbias;
  to.dbias_batches = static_cast<int>(p.dbias_batches);
  to.dbias_heads = static_cast<int>(p.dbias_heads);
  to.dbias_rows = static_cast<int>(p.dbias_rows);
  to.dbias_columns = static_cast<int>(p.dbias_columns);
  to.dslopes_batch_stride = p.dslopes_batch_stride;
  to.dslopes_rows = static_cast<int>(p.dslopes_rows);
  to.key_extent = static_cast<int>(p.k_rows);
  to.stat_tile = shape.stat_tile;
  to.stat_tiles = static_cast<int>(tiles(p.max_s_q, shape.stat_tile));
  to.stat_rows = stat_rows_of(p, shape.stat_tile);
  return to;
}

int backward_access(const Problem& p, bool copies_dout) {
  const int64_t element = dtype_bytes(p.dtype);
  int access = std::min(
      {access_of(p.q, element, p.q_alignment), access_of(p.k, element, p.k_alignment), access_of(p.v, element, p.v_alignment)});
  if (!copies_dout) access = std::min(access, access_of(p.dout, element, p.dout_alignment));
  return access;
}

size_t backward_scratch_bytes(const Problem& p, const BackwardShape& shape) { return book(p, shape).total(); }

BackwardPasses::BackwardPasses(const Problem& problem, const DeviceInfo& device, const BackwardShape& shape)
    : problem_(problem),
      shape_(shape),
      params_(shape_backward_params(problem, shape)),
      pre_config_(pre_config(problem, shape)),
      post_config_(post_config(problem, shape)),
      dead_config_(dead_config(problem)),
      heads_config_{reads_lengths(problem)},
      pre_(kPreForm, pre_config_, device, 0),
      post_(kPostForm, post_config_, device, 0),
      dead_(kDeadForm, dead_config_, device, 0),
      heads_(kHeadsForm, heads_config_, device, heads_config_.shared_bytes()),
      scratch_bytes_(backward_scratch_bytes(problem, shape)) {}

std::string BackwardPasses::text() const {
  return format_text("workspace for %lld rows of each of %d heads; before: row statistics%s%s; after:%s%s%s",
                     static_cast<long long>(params_.stat_rows), params_.slots, shape_.sums_d > 0 ? ", zeroed sums of dq" : "",
                     shape_.copies_dout ? ", dout in q's dtype" : "", shape_.sums_d > 0 ? " conversion of dq" : "",
                     problem_.has_dsink || problem_.has_dslopes ? " sums over heads" : "",
                     is_needed(dead_config_) ? " zeros for dead rows" : "");
}

BackwardParams BackwardPasses::bind(const fa_attention_args& args, void* scratch) const {
  BackwardParams to = params_;
  bind_pointers(problem_, args, &to);
  to.dout = static_cast<const char*>(args.dout);
  to.dlse = args.dlse;
  to.dq = static_cast<char*>(args.dq);
  to.dk = static_cast<char*>(args.dk);
  to.dv = static_cast<char*>(args.dv);
  to.dbias = args.dbias;
  to.dsink = args.dsink;
  to.dslopes = args.dslopes;
  const Bookings size = book(problem_, shape_);
  char* at = static_cast<char*>(scratch);
  const auto take = [&at](size_t bytes) {
    char* const here = at;
    at += bytes;
    return bytes > 0 ? here : nullptr;
  };
  to.row_lse2 = reinterpret_cast<float*>(take(size.lse2));
  to.row_delta = reinterpret_cast<float*>(take(size.delta));
  to.row_top = reinterpret_cast<float*>(take(size.top));
  to.row_log = reinterpret_cast<float*>(take(size.log));
  to.large_tiles = reinterpret_cast<int*>(take(size.large));
  to.dq_sums = reinterpret_cast<float*>(take(size.sums));
  to.dout_copy = take(size.dout);
  to.row_slopes = reinterpret_cast<float*>(take(size.slopes));
  return to;
}

unsigned BackwardPasses::blocks(int64_t work) const { return limited_blocks(work, problem_.sm_limit); }

Status BackwardPasses::prepare(void* context) const {
  const auto in = static_cast<CUcontext>(context);
  FA_TRY(pre_.prepare(in));
  if (shape_.sums_d > 0) FA_TRY(post_.prepare(in));
  if (is_needed(dead_config_)) FA_TRY(dead_.prepare(in));
  if (problem_.has_dsink || problem_.has_dslopes) FA_TRY(heads_.prepare(in));
  return {};
}

Status BackwardPasses::run_before(void* stream, uint32_t run_flags, const BackwardParams& params) const {
  const int64_t items = int64_t{params.b} * params.slots * params.stat_tiles;
  if (items == 0) return {};
  return pre_.launch(static_cast<CUstream>(stream), run_flags, {blocks(items), static_cast<unsigned>(pre_config_.threads()), 0},
                     &params);
}

Status BackwardPasses::run_after(void* stream, uint32_t run_flags, const BackwardParams& params) const {
  const auto on = static_cast<CUstream>(stream);
  const int64_t items = int64_t{params.b} * params.slots * params.stat_tiles;
  if (shape_.sums_d > 0 && items > 0)
    FA_TRY(post_.launch(on, run_flags, {blocks(items), static_cast<unsigned>(post_config_.threads()), 0}, &params));
  const int64_t sums = int64_t{params.slots} * ((problem_.has_dsink ? 1 : 0) + params.dslopes_rows);
  if (sums > 0 && (problem_.has_dsink || problem_.has_dslopes)) {
    FA_TRY(heads_.launch(
        on, run_flags,
        {blocks(sums), static_cast<unsigned>(heads_config_.threads()), static_cast<unsigned>(heads_config_.shared_bytes())},
        &params));
  }
  if (!is_needed(dead_config_)) return {};
  const int64_t query_rows = problem_.packed_q ? problem_.total_q : problem_.b * problem_.max_s_q;
  const int64_t rows = std::max(query_rows, problem_.packed_k ? problem_.k_rows : problem_.b * problem_.k_rows);
  if (rows == 0) return {};
  const int64_t warps_of_rows = (rows + 31) / 32,
                work = (warps_of_rows + BackwardDeadConfig::kWarps - 1) / BackwardDeadConfig::kWarps;
  return dead_.launch(on, run_flags, {blocks(std::min<int64_t>(work, 4096)), static_cast<unsigned>(dead_config_.threads()), 0},
                      &params);
}

void list_backward_passes(const Problem& p, const DeviceInfo& device, const BackwardShape& shape,
                          std::vector<KernelRequest>* requests) {
  const int capability = device.compute_capability;
  requests->push_back(kernel_request(kPreForm, pre_config(p, shape), capability));
  if (shape.sums_d > 0) requests->push_back(kernel_request(kPostForm, post_config(p, shape), capability));
  if (is_needed(dead_config(p))) requests->push_back(kernel_request(kDeadForm, dead_config(p), capability));
  if (p.has_dsink || p.has_dslopes)
    requests->push_back(kernel_request(kHeadsForm, BackwardHeadsConfig{reads_lengths(p)}, capability));
}

}  // namespace flash_attn::cuda
