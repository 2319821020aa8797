"""Decoding: one query row a request, contiguous cache. Time, the speed at which keys and values are read, and the time that reading
alone would take. Copies of the tensors are taken in turn, so that no cache holds them.
"""
from gpu.problems import Case, key_bytes
from gpu.report import Table, geometric_mean, microseconds, ratio
from gpu.session import OURS

# batch, query heads, key heads, head dim, keys
ROWS = ((1, 32, 8, 128, 1024), (1, 32, 8, 128, 8192), (1, 32, 8, 128, 131072), (16, 32, 8, 128, 8192), (64, 32, 8, 128, 8192),
        (128, 32, 8, 128, 4096), (16, 64, 8, 128, 32768), (64, 32, 32, 128, 4096))
LAUNCH_SECONDS = 3e-6  # what the floor allows beside reading


def run(session, options):
    bandwidth = options.read_bandwidth * 1e12
    table = Table("decode", "Decoding, one query row a request",
                  ("dtype, batch, h_q/h_k, d, keys", "ours us (TB/s)", "cuDNN", "FA2", "floor us", "floor / ours",
                   "best peer / ours", "kernel"),
                  f"Floor: K and V at {options.read_bandwidth:.2f} TB/s, and {LAUNCH_SECONDS * 1e6:.0f} us.")
    rows = [Case(f"{dtype}, {b}, {h_q}/{h_k}, {d}, {keys}", b, 1, keys, h_q, h_k, d, dtype)
            for dtype in options.dtypes for b, h_q, h_k, d, keys in ROWS if dtype == "bf16" or keys == 1024]
    session.compile(rows)
    to_peer = []
    for case in session.within_budget(rows, table):
        try:
            measured = session.measure(case, ("cuDNN", "FA2"), most_sets=32)
        except RuntimeError as error:
            session.fail(table, case, error)
            continue
        size = key_bytes(case)
        cells = [f"{microseconds(seconds)} ({size / seconds * 1e-12:.2f})" if seconds else "-"
                 for seconds in (measured.seconds(name) for name in (OURS, "cuDNN", "FA2"))]
        floor = size / bandwidth + LAUNCH_SECONDS
        peers = [measured.over(name) for name in ("cuDNN", "FA2") if name in measured.timings]
        to_peer += [min(peers)] if peers else []
        table.add([case.name, *cells, microseconds(floor), ratio(floor / measured.seconds()), ratio(min(peers) if peers else None),
                   measured.kernel], **measured.numbers(), bytes=size, floor=floor)
    if to_peer:
        table.say(f"geometric mean against the better peer {geometric_mean(to_peer):.3f}, smallest {min(to_peer):.3f}")
    session.finish(table)
