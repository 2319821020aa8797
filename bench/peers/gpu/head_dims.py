"""Head dims between the usual ones: what a width costs next to the usual width above it, timed together.

From 80 on, time(d) should be at most 1.05 d/d' time(d') with d' the next of 96, 128, 192 and 256; below, 40 and 72 have limits of
their own. Rows of widths that are no multiple of 8 do not begin on 16 bytes: these are counted apart.
"""
from gpu.problems import Case, useful_flops
from gpu.report import Table, microseconds, ratio

USUAL = (64, 96, 128, 192, 256)
WIDTHS = tuple(sorted({*range(40, 257, 8), 41, 73, 81, 100, 129, 161, 201, 250} - set(USUAL)))
LIMITS = {(40, 64): 0.85, (72, 96): 0.90}


def limit_of(d, usual):
    if d >= 80:
        return 1.05 * d / usual
    return LIMITS.get((d, usual))


def _case(d, causal):
    return Case(f"d {d} {'causal' if causal else 'full'}", 4, 4096, 4096, 16, 16, d, "bf16", causal)


def run(session, options):
    table = Table("head_dims", "Head dims, bf16, 4 requests of 16 heads, 4096 rows and keys",
                  ("head dim", "us", "TFLOP/s", "time over that of", "is", "at most", ""))
    groups = [(causal, usual, [d for d in WIDTHS if low < d < usual])
              for causal in (False, True) for low, usual in zip((0, *USUAL), USUAL)]
    session.compile([_case(d, causal) for causal, usual, widths in groups for d in (*widths, usual)])
    judged = {True: {}, False: {}}  # by whether rows are aligned: name to whether the limit is kept
    for causal, usual, widths in session.within_budget(groups, table):
        try:
            *narrow, full = session.compare([_case(d, causal) for d in (*widths, usual)])
        except RuntimeError as error:
            session.fail(table, _case(usual, causal), error)
            continue
        for measured in (*narrow, full):
            case, share = measured.case, measured.seconds() / full.seconds()
            limit = limit_of(case.d, usual) if case.d != usual else None
            if limit is not None:
                judged[case.d % 8 == 0][case.name] = share <= limit
            verdict = "" if limit is None else "met" if share <= limit else "MISSED"
            table.add([case.name, microseconds(measured.seconds()), f"{measured.tflops(useful_flops(case)):.0f}", usual,
                       ratio(share), ratio(limit), verdict], **measured.numbers(), share=share, limit=limit)
    for is_aligned, kept in judged.items():
        missed = [name for name, is_kept in kept.items() if not is_kept]
        table.say(f"{'multiples of 8' if is_aligned else 'other widths'}: {len(missed)} of {len(kept)} above their limit"
                  + (": " + ", ".join(missed) if missed else ""))
    session.finish(table)
