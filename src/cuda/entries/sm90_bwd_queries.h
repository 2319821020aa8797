// The choices of the Hopper kernel that makes dq alone (kernels/sm90_bwd_queries.cuh), as functions of the problem and the device:
// what it serves, and how its work is cut. sm90_bwd launches it beside the kernel that makes dk and dv.
#pragma once

#include "core/problem.h"
#include "core/status.h"
#include "cuda/device.h"
#include "cuda/entries/sm90_config.h"
#include "cuda/jit/source.h"
#include "cuda/kernels/backward_params.h"

namespace flash_attn::cuda {

struct Sm90QueryChoice {
  Sm90Choice choice;  // o's map is dq's
  MapShape dout;
};

// Whether the kernel serves a problem that sm90_bwd does; the same as a status.
bool serves_query_gradients(const Problem& problem);
Status supports_query_gradients(const Problem& problem);

Sm90QueryChoice choose_query_gradients(const Problem& problem);

// Everything but maps and pointers.
Sm90QueryArguments shape_query_gradients(const Problem& problem, const DeviceInfo& device, const Sm90QueryChoice& choice);

// A run's maps and pointers; `params` are bound already.
Status bind_query_gradients(const Problem& problem, const Sm90QueryChoice& choice, const fa_attention_args& args,
                            const BackwardParams& params, Sm90QueryArguments* to);

extern const KernelForm kQueryGradientsForm;

}  // namespace flash_attn::cuda
