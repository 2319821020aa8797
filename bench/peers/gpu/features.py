"""What features cost: each beside the plain call that it is measured against, timed together, per useful operation where a mask
or the lengths change their number. 16384 tokens in all (packed: 65536), 2048 / head dim heads; trees and decoding as servers have them.
"""
import random
from dataclasses import dataclass

from gpu.problems import Case, useful_flops
from gpu.report import Table, microseconds, ratio

LENGTHS, DIMS = (4096, 16384), (64, 128)
TOKENS, HIDDEN = 16384, 2048
PACKED_TOKENS, SHORTEST, LONGEST = 65536, 64, 8192


@dataclass(frozen=True)
class Pair:
    """A feature's case and the plain one; `limit` on the quotient of times, or of times per useful operation."""

    feature: Case
    plain: Case
    limit: float
    is_per_flop: bool = True


def _plain(d, length, causal, tokens=TOKENS):
    heads = HIDDEN // d
    name = f"d {d} {length} {'causal' if causal else 'full'}"
    return Case(name, tokens // length, length, length, heads, heads, d, "bf16", causal)


def _with(plain, what, **fields):
    return Case(**{**plain.__dict__, "name": f"{plain.name}, {what}", **fields})


def packed_lengths(seed):
    random_ = random.Random(seed)
    lengths = []
    while sum(lengths) < PACKED_TOKENS:
        lengths.append(min(random_.randint(SHORTEST, LONGEST), PACKED_TOKENS - sum(lengths)))
    return tuple(lengths)


def _score_features(d, length):
    softcap_limit = 1.15 if d == 128 else 1.40
    for causal in (False, True):
        plain = _plain(d, length, causal)
        yield Pair(_with(plain, "softcap 5", softcap=5.0), plain, softcap_limit)
        yield Pair(_with(plain, "ALiBi", alibi=True), plain, 1.15)
        yield Pair(_with(plain, "dropout 0.1", dropout=0.1), plain, 1.35)
    full = _plain(d, length, False)
    yield Pair(_with(full, "boolean mask", mask=True), full, 1.30)


def _mask_features(d, length, seed):
    causal, full = _plain(d, length, True), _plain(d, length, False)
    for left in (1024,) if length == 4096 else (1024, 4096):
        yield Pair(_with(causal, f"window {left}", window=(left, 0)), causal, 1.15)
    yield Pair(_with(full, "window 512 either side", window=(512, 512)), full, 1.15)
    for is_causal in (False, True):
        plain = _plain(d, length, is_causal, PACKED_TOKENS)
        yield Pair(_with(plain, "packed 64 to 8192", lengths=packed_lengths(seed)), plain, 1.15)


def _cache_features(d, length):
    causal = _plain(d, length, True)
    decode = Case(f"d {d} {length} decode, b 64, h 32/8", 64, 1, length, 32, 8, d)
    for page in (16, 64, 256):
        yield Pair(_with(causal, f"page {page}", page=page), causal, 1.10, is_per_flop=False)
        yield Pair(_with(decode, f"page {page}", page=page), decode, 1.10, is_per_flop=False)
    chain = Case(f"d {d} 64 rows after {length}, b 16, h 32/8, causal", 16, 64, length + 64, 32, 8, d, "bf16", True)
    tree = _with(chain, "tree of 64", causal=False, tree=64)
    yield Pair(tree, chain, 1.15, is_per_flop=False)


def pairs(seed):
    for length in LENGTHS:
        for d in DIMS:
            yield from _score_features(d, length)
            yield from _mask_features(d, length, seed)
            yield from _cache_features(d, length)


def run(session, options):
    table = Table("features", "Features against plain calls, bf16",
                  ("feature", "us", "TFLOP/s", "plain us", "feature / plain", "at most", "", "kernel"),
                  "Time over time, per useful operation for masks of the score, windows and packed lengths: "
                  "those that causal masks, windows and lengths leave.")
    rows = list(pairs(options.seed))
    session.compile([case for pair in rows for case in (pair.feature, pair.plain)])
    missed = []
    for pair in session.within_budget(rows, table):
        try:
            feature, plain = session.compare([pair.feature, pair.plain])
        except RuntimeError as error:
            session.fail(table, pair.feature, error)
            continue
        flops, plain_flops = useful_flops(pair.feature), useful_flops(pair.plain)
        share = feature.seconds() / plain.seconds() * (plain_flops / flops if pair.is_per_flop else 1)
        if share > pair.limit:
            missed.append(pair.feature.name)
        table.add([pair.feature.name, microseconds(feature.seconds()), f"{feature.tflops(flops):.0f}",
                   microseconds(plain.seconds()), ratio(share), f"{pair.limit:.2f}", "met" if share <= pair.limit else "MISSED",
                   feature.kernel],
                  feature=feature.numbers(), plain=plain.numbers(), share=share, limit=pair.limit)
    table.say(f"{len(missed)} of {len(table.rows)} above their limit" + (": " + "; ".join(missed) if missed else ""))
    session.finish(table)
