"""The 24 settings: head dims 64, 128 and 256, causal or not, lengths 512 to 16384; 16384 tokens in all, 2048 / head dim heads.
Ours beside cuDNN and FlashAttention-2, and against the best peer: FlashAttention-3 by published.py where that is it. And the same
with the mma.sync kernel forced, against FlashAttention-2.
"""
from gpu import published
from gpu.problems import Case
from gpu.report import Table, geometric_mean, ratio
from gpu.session import OURS

TOKENS, HIDDEN = 16384, 2048


def cases(dtype):
    for d, causal in published.TFLOPS:
        for length in published.LENGTHS:
            name = f"{dtype} d {d} {'causal' if causal else 'full'} {length}"
            heads = HIDDEN // d
            yield Case(name, TOKENS // length, length, length, heads, heads, d, dtype, causal)


def flops(case):
    """As the published figures count them."""
    return 4 * case.b * case.h_q * case.s_q**2 * case.d // (2 if case.causal else 1)


def run_settings(session, options):
    for dtype in options.dtypes:
        table = Table("settings", f"24 settings, {dtype}, forward",
                      ("setting", "ours TFLOP/s", "cuDNN", "FA2", "ours / cuDNN", "ours / best peer", "best peer", "kernel"),
                      "Best peer: cuDNN of this run, times FlashAttention-3 over cuDNN by bench/peers/gpu/published.py where "
                      "that is above 1 (measured in bf16).")
        rows = [case.forced(options.kernel) for case in cases(dtype)]
        session.compile(rows)
        to_best = {}
        for case in session.within_budget(rows, table):
            try:
                measured = session.measure(case, ("cuDNN", "FA2"))
            except RuntimeError as error:
                session.fail(table, case, error)
                continue
            best = published.best_over_cudnn(case.d, case.causal, case.s_q)
            to_cudnn = measured.over("cuDNN")
            to_best[case] = to_cudnn / best if to_cudnn else None
            speeds = [measured.tflops(flops(case), name) for name in (OURS, "cuDNN", "FA2")]
            table.add([case.name, *(f"{speed:.0f}" if speed else "-" for speed in speeds), ratio(to_cudnn), ratio(to_best[case]),
                       "FA3" if best > 1 else "cuDNN", measured.kernel], **measured.numbers(), to_best=to_best[case])
        _judge(table, to_best)
        session.finish(table)


def _judge(table, to_best):
    to_best = {case: value for case, value in to_best.items() if value}
    if not to_best:
        return
    table.require("geometric mean over all against the best peer", geometric_mean(to_best.values()), 1.08)
    short = [value for case, value in to_best.items() if case.s_q in (512, 2048)]
    table.require("geometric mean over 512 and 2048", geometric_mean(short), 1.12)
    worst = min(to_best, key=to_best.get)
    table.require(f"smallest ({worst.name})", to_best[worst], 0.98)
    table.say(f"{sum(value < 0.98 for value in to_best.values())} of {len(to_best)} settings below 0.98")


def run_mma(session, options):
    kernel = "sm80_fwd"
    table = Table("mma", f"24 settings, bf16, kernel {kernel} forced, against FlashAttention-2",
                  ("setting", "ours TFLOP/s", "FA2", "ours / FA2"))
    rows = [case.forced(kernel) for case in cases("bf16")]
    session.compile(rows)
    to_fa2 = {}
    for case in session.within_budget(rows, table):
        try:
            measured = session.measure(case, ("FA2",))
        except RuntimeError as error:
            session.fail(table, case, error)
            continue
        speeds = [measured.tflops(flops(case), name) for name in (OURS, "FA2")]
        if measured.over("FA2"):
            to_fa2[case.name] = measured.over("FA2")
        table.add([case.name, *(f"{speed:.0f}" if speed else "-" for speed in speeds), ratio(measured.over("FA2"))],
                  **measured.numbers())
    if to_fa2:
        worst = min(to_fa2, key=to_fa2.get)
        table.require(f"smallest ({worst})", to_fa2[worst], 1.0)
        table.say(f"geometric mean {geometric_mean(to_fa2.values()):.3f}; {sum(value < 1 for value in to_fa2.values())} below 1")
    session.finish(table)
