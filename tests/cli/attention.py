"""Attention in Python's double precision, written from docs/design.md, for the program's tests: one request at a time, lists of
lists, no care for speed."""
import math

MASK32 = 0xFFFFFFFF


def philox(key, counter):
    key, c = list(key), list(counter)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ key[0], b & MASK32, (a >> 32) ^ c[3] ^ key[1], a & MASK32]
        key = [(key[0] + 0x9E3779B9) & MASK32, (key[1] + 0xBB67AE85) & MASK32]
    return c


def is_dropped(p, seed, offset, batch, head, i, j):
    first = philox((seed & MASK32, seed >> 32), (offset & MASK32, offset >> 32, 0, 0))
    lane = (i % 8) * 4 + (j % 8) // 2
    words = philox(first[:2], (batch, head, (i // 16) * 32 + lane, j // 16))
    draw = words[((i // 8) % 2) * 2 + (j // 8) % 2] >> (16 * (j % 2)) & 0xFFFF
    return draw < int(p * 65536 + 0.5)


def visible(i, j, s_q, s_k, o):
    delta = o.get("delta", s_k - s_q)
    left, right = o.get("window", (-1, -1))
    if o.get("causal"):
        right = 0
    if left >= 0 and j < i + delta - left:
        return False
    if right >= 0 and j > i + delta + right:
        return False
    if "tree" in o:
        rows, size = o["tree"]
        prefix = s_k - size
        if j >= prefix and not rows[i][(j - prefix) // 64] >> ((j - prefix) % 64) & 1:
            return False
    return "mask" not in o or bool(o["mask"](i, j))


def attend_row(q, keys, values, i, s_q, o):
    """(o row, lse) of one query row of one head; o holds the options of that head."""
    s_k, scale = len(keys), o.get("scale", 1 / math.sqrt(len(q)))
    delta = o.get("delta", s_k - s_q)
    scores = {}
    for j, key in enumerate(keys):
        if not visible(i, j, s_q, s_k, o):
            continue
        s = scale * sum(a * b for a, b in zip(q, key))
        if o.get("softcap"):
            s = o["softcap"] * math.tanh(s / o["softcap"])
        s -= o.get("slope", 0.0) * abs(i + delta - j)
        scores[j] = s + (o["bias"](i, j) if "bias" in o else 0.0)
    sink = o.get("sink", -math.inf)
    top = max([sink, *scores.values()])
    if top == -math.inf:
        return [0.0] * len(values[0]) if values else None, -math.inf
    total = sum(math.exp(s - top) for s in scores.values()) + math.exp(sink - top)
    row = [0.0] * (len(values[0]) if values else 0)
    for j, s in scores.items():
        weight = math.exp(s - top) / total
        if "dropout" in o:
            p, seed, offset, batch, head = o["dropout"]
            weight = 0.0 if is_dropped(p, seed, offset, batch, head, i, j) else weight / (1 - p)
        row = [r + weight * v for r, v in zip(row, values[j])]
    return row, top + math.log(total)
