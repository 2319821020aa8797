"""The backward: the 24 settings beside cuDNN and FlashAttention-2, and what grouped heads, packed lengths, windows, softcap and
deterministic sums cost. A call's time spans its first kernel to its last, zeroing included. PyTorch's gradients are those of
scaled_dot_product_attention by autograd, whose forward is not timed.
"""
import math
from dataclasses import replace

import torch
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import flash_attn_ctypes as fa
from gpu import backends, problems, published, reference, settings
from gpu.features import packed_lengths
from gpu.report import Table, geometric_mean, microseconds, ratio
from gpu.session import OURS, Measured
from gpu.timing import Side

KERNELS = ("sm90_bwd", "sm80_bwd")
GRADIENTS = ("dq", "dk", "dv")
ALLOWED = 1.2e-2  # norm of the difference over norm of the reference: bf16, four roundings one after the other
DETERMINISTIC = "deterministic"


def _tensors(case, session):
    """Inputs, the library's own o and lse, a random dout, and gradients full of NaN."""
    tensors = problems.make_tensors(case, session.device)
    rows = tensors["q"].shape[:-1]
    shape = (rows[1], rows[0]) if case.lengths else (rows[0], rows[2], rows[1])
    tensors["lse"] = torch.empty(shape, dtype=torch.float32, device=session.device)
    fa.Attention(session.library, tensors, problems.options(case.forced("")))()
    tensors["dout"] = torch.randn_like(tensors["o"])
    for gradient, of in zip(GRADIENTS, "qkv"):
        tensors[gradient] = torch.full_like(tensors[of], math.nan)
    return tensors


def _call(session, case, tensors, kernel="", deterministic=False):
    """A prepared backward; RuntimeError with the library's reason if no kernel, or not this one, serves the case."""
    fields = problems.options(case.forced(kernel)) | {"direction": fa.DIRECTION_BACKWARD}
    if deterministic:
        fields["flags"] = fa.FLAG_DETERMINISTIC
    return fa.Attention(session.library, tensors, fields)


def _scores(case, q, k):
    scores = q @ k.transpose(-1, -2) / math.sqrt(case.d)
    if case.softcap:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    low, high = (bound.to(q.device)[:, None] for bound in problems.interval(case, q.shape[-2], k.shape[-2]))
    keys = torch.arange(k.shape[-2], device=q.device)[None, :]
    return scores.masked_fill((keys < low) | (keys >= high), -math.inf)


def _error(case, tensors):
    """The largest relative error of the three gradients over one key head and its query heads of one request, in fp32."""
    number, head = len(case.requests()) - 1, case.h_k - 1
    group = case.h_q // case.h_k

    def take(name, first, count):
        tensor = tensors[name]
        if case.lengths:
            begin = sum(case.lengths[:number])
            tensor = tensor[begin:begin + case.lengths[number]]
        else:
            tensor = tensor[number]
        return tensor[:, first:first + count].float().transpose(0, 1)

    with torch.enable_grad():
        q, k, v = (take(name, head * size, size).contiguous().requires_grad_()
                   for name, size in (("q", group), ("k", 1), ("v", 1)))
        total = None
        for one in range(group):  # a head's scores at a time: long sequences fill the memory
            o = torch.softmax(_scores(case, q[one], k[0]), -1).nan_to_num(0.0) @ v[0]
            grads = torch.autograd.grad(o, (q, k, v), take("dout", head * group + one, 1)[0])
            total = grads if total is None else [a + b for a, b in zip(total, grads)]
    worst = 0.0
    for name, size, right in zip(GRADIENTS, (group, 1, 1), total):
        wrong = float((take(name, head * size, size) - right).norm() / right.norm().clamp(min=1e-30))
        worst = max(worst, wrong if wrong == wrong else math.inf)
    return worst


def _peer(name, case, tensors, session):
    """A call of PyTorch's backward, or None if it refuses. Its forward runs on the clock's stream, as autograd follows that."""
    torch.cuda.synchronize()
    with session.clock.stream(), torch.enable_grad():
        q, k, v = (tensors[of].transpose(1, 2).detach().requires_grad_() for of in "qkv")
        try:
            with sdpa_kernel(backends.BACKENDS[name]):
                o = scaled_dot_product_attention(q, k, v, is_causal=case.causal, enable_gqa=case.h_q != case.h_k)
            torch.autograd.grad(o, (q, k, v), tensors["dout"].transpose(1, 2), retain_graph=True)
        except RuntimeError:
            return None
    return lambda: torch.autograd.grad(o, (q, k, v), tensors["dout"].transpose(1, 2), retain_graph=True)


def _check(session, case, tensors, name, call):
    for gradient in GRADIENTS:
        tensors[gradient].fill_(math.nan)
    call()
    torch.cuda.synchronize()
    measured = Measured(case, call.plan.kernel(), _error(case, tensors))
    if measured.error > ALLOWED:
        session.wrong.append(measured)
        print(f"WRONG: {case} by {name}: error {measured.error:.2e}", flush=True)
    return measured


def _measure(session, case, peers=(), kernels=(), deterministic=False):
    """(Measured of the library's choice with everybody's timings, errors by name). Forced kernels that refuse are left out."""
    tensors = _tensors(case, session)
    measured, sides, errors = None, [], {}
    wanted = [(OURS, "", False), *((kernel, kernel, False) for kernel in kernels)]
    if deterministic:
        wanted.append((DETERMINISTIC, "", True))
    for name, kernel, is_deterministic in wanted:
        try:
            call = _call(session, case, tensors, kernel, is_deterministic)
        except RuntimeError:
            if name == OURS:
                raise
            continue
        found = _check(session, case, tensors, name, call)
        measured = measured or found
        errors[name] = found.error
        sides.append(Side(name, [call]))
    for name in peers:
        call = _peer(name, case, tensors, session)
        if call is not None:
            sides.append(Side(name, [call]))
    measured.timings = session.clock.time_queued(sides)
    return measured, errors


def _compile(session, cases, kernels=("",), deterministic=False):
    session.compile_descriptions(
        [_description(session, case, kernel, is_deterministic) for case in cases for kernel in kernels
         for is_deterministic in ((False, True) if deterministic and kernel == "" else (False,))]
        + [_forward_description(session, case) for case in cases])


def _description(session, case, kernel, is_deterministic):
    tensors = problems.make_tensors(case, "meta")
    rows = tensors["q"].shape[:-1]
    tensors["lse"] = torch.empty((rows[1], rows[0]) if case.lengths else (rows[0], rows[2], rows[1]), device="meta")
    tensors["dout"] = tensors["o"]
    for gradient, of in zip(GRADIENTS, "qkv"):
        tensors[gradient] = tensors[of]
    fields = problems.options(case.forced(kernel)) | {"direction": fa.DIRECTION_BACKWARD}
    if is_deterministic:
        fields["flags"] = fa.FLAG_DETERMINISTIC
    return fa.describe(session.library, tensors, fields)


def _forward_description(session, case):
    tensors = problems.make_tensors(case, "meta")
    rows = tensors["q"].shape[:-1]
    tensors["lse"] = torch.empty((rows[1], rows[0]) if case.lengths else (rows[0], rows[2], rows[1]), device="meta")
    return fa.describe(session.library, tensors, problems.options(case.forced("")))


def run_settings(session, options):
    names = (OURS, *KERNELS, "cuDNN", "FA2")
    table = Table("backward", "24 settings, bf16, backward",
                  ("setting", *(f"{name} TFLOP/s" for name in names), "ours / cuDNN", "ours / best peer", "sm80_bwd / FA2",
                   "deterministic / ours", "kernel"),
                  "FLOPs are 2.5 times the forward's. Best peer as in the forward's table. Deterministic: speed of the "
                  "deterministic mode over that of the other.")
    cases = list(settings.cases("bf16"))
    _compile(session, cases, ("", *KERNELS), True)
    to_best, to_fa2, deterministic = {}, {}, {}
    for case in session.within_budget(cases, table):
        try:
            measured, errors = _measure(session, case, ("cuDNN", "FA2"), KERNELS, True)
        except RuntimeError as error:
            session.fail(table, case, error)
            continue
        best = published.best_over_cudnn(case.d, case.causal, case.s_q, published.BACKWARD_TFLOPS)
        to_cudnn = measured.over("cuDNN")
        if to_cudnn:
            to_best[case.name] = to_cudnn / best
        if "sm80_bwd" in measured.timings and "FA2" in measured.timings:
            to_fa2[case.name] = measured.seconds("FA2") / measured.seconds("sm80_bwd")
        if DETERMINISTIC in measured.timings:
            deterministic[case.name] = measured.seconds() / measured.seconds(DETERMINISTIC)
        speeds = [measured.tflops(2.5 * settings.flops(case), name) for name in names]
        table.add([case.name, *(f"{speed:.0f}" if speed else "-" for speed in speeds), ratio(to_cudnn),
                   ratio(to_best.get(case.name)), ratio(to_fa2.get(case.name)), ratio(deterministic.get(case.name)),
                   measured.kernel], **measured.numbers(), errors=errors)
    _judge(table, to_best, to_fa2, deterministic)
    session.finish(table)


def _judge(table, to_best, to_fa2, deterministic):
    for what, values, least in (("against the best peer", to_best, 0.98), ("sm80_bwd against FlashAttention-2", to_fa2, 1.0),
                                ("deterministic mode", deterministic, 0.75)):
        if values:
            worst = min(values, key=values.get)
            table.require(f"smallest {what} ({worst})", values[worst], least)
    if to_best:
        table.require("geometric mean over all against the best peer", geometric_mean(to_best.values()), 1.05)
        short = [value for name, value in to_best.items() if name.split()[-1] in ("512", "2048")]
        table.require("geometric mean over 512 and 2048", geometric_mean(short), 1.15)
    if deterministic:
        table.require("geometric mean of the deterministic mode", geometric_mean(deterministic.values()), 0.85)


def _pairs(seed):
    """(feature's case, the plain one, least speed per useful operation over the plain one's)."""
    for d in (64, 128):
        for causal in (False, True):
            plain = next(case for case in settings.cases("bf16") if (case.d, case.causal, case.s_q) == (d, causal, 8192))
            yield replace(plain, name=f"{plain.name}, 8 query heads a key head", h_k=plain.h_q // 8), plain, 0.95
            yield replace(plain, name=f"{plain.name}, packed 64 to 8192", lengths=packed_lengths(seed)), plain, 0.90
            yield replace(plain, name=f"{plain.name}, softcap 5", softcap=5.0), plain, 1 / 1.2
        yield replace(plain, name=f"{plain.name}, window 1024", window=(1024, 0)), plain, 1 / 1.2


def run_features(session, options):
    table = Table("gradient_features", "Backward: features against plain calls, bf16",
                  ("feature", "us", "TFLOP/s", "plain us", "feature / plain", "at least", "", "kernel"),
                  "Speed per useful operation over the plain call's: those that causal masks, windows and lengths leave.")
    rows = list(_pairs(options.seed))
    _compile(session, [case for feature, plain, _ in rows for case in (feature, plain)])
    missed = []
    for feature, plain, least in session.within_budget(rows, table):
        try:
            found, _ = _measure(session, feature)
            beside, _ = _measure(session, plain)
        except RuntimeError as error:
            session.fail(table, feature, error)
            continue
        flops = [2.5 * problems.useful_flops(case) for case in (feature, plain)]
        share = found.tflops(flops[0]) / beside.tflops(flops[1])
        if share < least:
            missed.append(feature.name)
        table.add([feature.name, microseconds(found.seconds()), f"{found.tflops(flops[0]):.0f}", microseconds(beside.seconds()),
                   ratio(share), f"{least:.2f}", "met" if share >= least else "MISSED", found.kernel],
                  feature=found.numbers(), plain=beside.numbers(), share=share, limit=least)
    table.say(f"{len(missed)} of {len(table.rows)} below their limit" + (": " + "; ".join(missed) if missed else ""))
    session.finish(table)
