"""The right result, for a few rows: fp32 on the GPU, written from docs/design.md, section "Semantics". What is timed is compared
with it first. Knows nothing of time or of the library."""
import math

import torch

from gpu import problems

DROPOUT_SEED = 0x1234567890ABCDEF
# Norm of the difference over norm of the reference: rounding of weights and results, three times what is usual.
ALLOWED = {"bf16": 1e-2, "f16": 1.5e-3}
_WORD = 0xFFFFFFFF


def _philox(key, counter):
    """Philox4x32-10 on int64 tensors that hold 32-bit words."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD, ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def kept_weights(p, request, head, rows, s_k):
    """[rows, s_k] factors: 0 where a weight is dropped, else 1 / (1 - p)."""
    zero = torch.zeros((), dtype=torch.int64)
    seed = (DROPOUT_SEED & _WORD, DROPOUT_SEED >> 32)
    sub = _philox(seed, (zero, zero, zero, zero))
    row, key = rows.to(torch.int64)[:, None], torch.arange(s_k, dtype=torch.int64, device=rows.device)[None, :]
    lane = (row % 8) * 4 + (key % 8) // 2
    counter = (torch.full_like(lane, request), torch.full_like(lane, head), (row // 16) * 32 + lane, (key // 16).expand_as(lane))
    words = torch.stack(_philox((int(sub[0]), int(sub[1])), counter))
    word = ((row // 8) % 2) * 2 + (key // 8) % 2
    draw = (words.gather(0, word[None])[0] >> (16 * (key % 2))) & 0xFFFF
    return (draw >= round(p * 65536)).float() / (1 - p)


def _request(case, tensors, number):
    """q, k, v, o of one request, [rows, heads, dim]."""
    q, k, v, o = (tensors[name] for name in ("q", "k", "v", "o"))
    if case.lengths:
        begin = sum(case.lengths[:number])
        return tuple(tensor[begin:begin + case.lengths[number]] for tensor in (q, k, v, o))
    if case.page:
        pages = tensors["block_table"][number].long()
        k, v = (tensor[pages].flatten(0, 1)[:case.s_k] for tensor in (k, v))
        return q[number], k, v, o[number]
    return q[number], k[number], v[number], o[number]


def _rows(case, tensors, request, head, rows, q, k, v):
    s_q, s_k = q.shape[0], k.shape[0]
    kv_head = head // (case.h_q // case.h_k)
    scores = (q[rows, head].float() @ k[:, kv_head].float().T) / math.sqrt(case.d)
    if case.softcap:
        scores = case.softcap * torch.tanh(scores / case.softcap)
    keys = torch.arange(s_k, device=q.device)[None, :]
    if case.alibi:
        delta = 0 if case.top_left else s_k - s_q
        scores = scores - tensors["alibi"][head] * (rows[:, None] + delta - keys).abs()
    low, high = (bound.to(q.device)[rows][:, None] for bound in problems.interval(case, s_q, s_k))
    visible = (keys >= low) & (keys < high)
    if case.mask:
        visible &= tensors["mask"][0, 0, rows]
    if case.tree:
        bits = tensors["tree_mask"][request, rows, 0][:, None] >> (keys - (s_k - case.tree)).clamp(min=0)
        visible &= (keys < s_k - case.tree) | (bits & 1).bool()
    weights = torch.softmax(scores.masked_fill(~visible, -math.inf), dim=1).nan_to_num(0.0)
    if case.dropout:
        weights = weights * kept_weights(case.dropout, request, head, rows, s_k)
    return weights @ v[:, kv_head].float()


def relative_error(case, tensors, samples=3, rows_of_each=24):
    """Over random rows (the first and the last among them) of a few heads; NaN counts as infinite."""
    generator = torch.Generator().manual_seed(1)
    wrong, right = 0.0, 0.0
    count = len(case.requests())
    for _ in range(samples):
        request = int(torch.randint(0, count, (1,), generator=generator))
        head = int(torch.randint(0, case.h_q, (1,), generator=generator))
        q, k, v, o = _request(case, tensors, request)
        chosen = torch.randint(0, q.shape[0], (rows_of_each,), generator=generator)
        chosen[0], chosen[-1] = 0, q.shape[0] - 1
        rows = chosen.to(q.device)
        expected = _rows(case, tensors, request, head, rows, q, k, v)
        wrong += float((o[rows, head].float() - expected).square().sum())
        right += float(expected.square().sum())
    error = math.sqrt(wrong / max(right, 1e-30))
    return error if error == error else math.inf
