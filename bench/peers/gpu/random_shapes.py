"""Shapes drawn at random: batch 1 to 256, 1 to 16 query heads a key head, lengths apart and odd, against the best of PyTorch's
backends that serves each, and against the library's own kernels forced by name.
"""
import math
import random

from gpu import problems
from gpu.problems import Case
from gpu.report import Table, geometric_mean, microseconds, ratio
from gpu.session import OURS

DIMS = (64, 64, 64, 80, 96, 128, 128, 128, 128, 160, 192, 256)
MASKS = ("full", "full", "causal", "top-left")
MOST_FLOPS, MOST_BYTES = 1e12, 4 << 30
KERNELS = ("sm90_fwd", "sm80_fwd")


def _draw(random_, number):
    def log_uniform(low, high):
        return round(math.exp(random_.uniform(math.log(low), math.log(high))))

    while True:
        batch, group = log_uniform(1, 256), random_.choice((1, 1, 2, 4, 8, 16))
        h_k = log_uniform(1, 16)
        s_q, s_k = log_uniform(17, 16384), log_uniform(17, 16384)
        d, mask = random_.choice(DIMS), random_.choice(MASKS)
        if mask == "causal":
            s_k = s_q
        case = Case(f"{number}", batch, s_q, s_k, h_k * group, h_k, d, "bf16", mask != "full", mask == "top-left")
        # Not all of the time for a few giants, and nothing that the launch alone decides.
        if 1e9 <= problems.useful_flops(case) <= MOST_FLOPS and problems.bytes_of(case) <= MOST_BYTES:
            return case


def cases(count, seed):
    random_ = random.Random(seed)
    return [_draw(random_, number) for number in range(count)]


def run(session, options):
    seed = options.seed
    table = Table("random", f"{options.random_shapes} random shapes, bf16, seed {seed}",
                  ("shape", "ours us", "best PyTorch us", "backend", "ratio", "best forced / ours", "kernel"),
                  "Causal masks of unequal lengths start at the top left, as PyTorch's do. Ratio: PyTorch's time over ours.")
    rows = cases(options.random_shapes, seed)
    session.compile([case.forced(kernel) for case in rows for kernel in ("", *KERNELS)])
    to_peer, to_forced = {}, {}
    for case in session.within_budget(rows, table):
        shape = (f"b {case.b} s_q {case.s_q} s_k {case.s_k} h {case.h_q}/{case.h_k} d {case.d}"
                 + (" top-left" if case.top_left and case.s_q != case.s_k else " causal" if case.causal else ""))
        try:
            measured = session.measure(case, ("cuDNN", "FA2"), KERNELS, most_sets=8)
        except RuntimeError as error:
            session.fail(table, case, error)
            continue
        served = {name: measured.seconds(name) for name in ("cuDNN", "FA2") if name in measured.timings}
        best = min(served, key=served.get) if served else None
        forced = min(measured.seconds(name) for name in (OURS, *KERNELS) if name in measured.timings)
        to_forced[shape] = forced / measured.seconds()
        if best:
            to_peer[shape] = measured.over(best)
        table.add([shape, microseconds(measured.seconds()), microseconds(served[best]) if best else "-", best or "none serves it",
                   ratio(to_peer.get(shape)), ratio(to_forced[shape]), measured.kernel], **measured.numbers(), shape=shape)
    if to_peer:
        worst = min(to_peer, key=to_peer.get)
        table.require("geometric mean against the best backend", geometric_mean(to_peer.values()), 1.0)
        table.say(f"{len(to_peer)} shapes served by a backend; smallest {to_peer[worst]:.3f} ({worst}); "
                  f"{sum(value < 1 for value in to_peer.values())} below 1")
        worst = min(to_forced, key=to_forced.get)
        table.require(f"smallest share of the best kernel forced by name ({worst})", to_forced[worst], 0.92)
    session.finish(table)
