"""Attention problems for the GPU benchmarks: what one is, its random tensors, its useful work, and the way to the library's call.

Tensors are in the library's order, [b, s, h, d]; a packed problem has no b, a paged one has pages. Knows nothing of time.
"""
from dataclasses import dataclass, replace

import torch

import flash_attn_ctypes as fa

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


@dataclass(frozen=True)
class Case:
    name: str
    b: int
    s_q: int
    s_k: int
    h_q: int
    h_k: int
    d: int
    dtype: str = "bf16"
    causal: bool = False
    top_left: bool = False
    window: tuple = (-1, -1)
    softcap: float = 0.0
    alibi: bool = False
    mask: bool = False          # boolean, [1, 1, s_q, s_k], half of it visible
    tree: int = 0               # tree keys at the end; every query is one of them
    dropout: float = 0.0
    page: int = 0               # rows of a page; 0: contiguous
    lengths: tuple = ()         # of packed requests; empty: dense
    kernel: str = ""            # forced by name; empty: the library chooses

    def requests(self):
        return [(n, n) for n in self.lengths] if self.lengths else [(self.s_q, self.s_k)] * self.b

    def forced(self, kernel):
        return replace(self, kernel=kernel)


def interval(case, s_q, s_k):
    """[low, high) of the keys visible to each query row by causal mask and window, as two vectors."""
    diagonal = torch.arange(s_q, dtype=torch.int64) + (0 if case.top_left else s_k - s_q)
    left, right = case.window
    if case.causal:
        right = 0 if right < 0 else min(right, 0)
    low = (diagonal - left).clamp(0, s_k) if left >= 0 else torch.zeros_like(diagonal)
    high = (diagonal + right + 1).clamp(0, s_k) if right >= 0 else torch.full_like(diagonal, s_k)
    return low, high


def useful_flops(case):
    """Of the two products, over what causal masks and windows leave; other masks and dropout count as if they hid nothing."""
    pairs = 0
    for s_q, s_k in set(case.requests()):
        low, high = interval(case, s_q, s_k)
        pairs += case.requests().count((s_q, s_k)) * int((high - low).clamp(min=0).sum())
    return 4 * case.h_q * case.d * pairs


def bytes_of(case):
    """Each of q, k, v and o once."""
    rows = sum(s_q * case.h_q + s_k * case.h_k for s_q, s_k in case.requests())
    return rows * 2 * case.d * 2


def key_bytes(case):
    return sum(s_k for _, s_k in case.requests()) * case.h_k * 2 * case.d * 2


def tree_rows(nodes):
    """A random tree's mask, bit j of row i set if node j is an ancestor of node i or i itself: one 64-bit word a row."""
    generator = torch.Generator().manual_seed(nodes)
    rows = []
    for node in range(nodes):
        parent = int(torch.randint(0, node, (1,), generator=generator)) if node else -1
        rows.append((1 << node) | (rows[parent] if parent >= 0 else 0))
    return torch.tensor([row - (1 << 64) if row >= 1 << 63 else row for row in rows], dtype=torch.int64)


def _paged(case, k, v):
    """The same keys and values in pages of a shuffled order, and the table to find them."""
    pages = -(-case.s_k // case.page)
    padding = (0, 0, 0, 0, 0, pages * case.page - case.s_k)
    order = torch.randperm(case.b * pages).to(k.device)
    moved = []
    for tensor in (k, v):
        by_page = torch.nn.functional.pad(tensor, padding).reshape(case.b * pages, case.page, case.h_k, case.d)
        moved.append(torch.empty_like(by_page).index_copy_(0, order, by_page))
    return moved[0], moved[1], order.to(torch.int32).reshape(case.b, pages)


def make_tensors(case, device):
    """Random normal inputs and an uninitialised o, by their names in the library's description."""
    def randn(*shape):
        return torch.randn(*shape, device=device, dtype=DTYPES[case.dtype])

    if case.lengths:
        total = sum(case.lengths)
        tensors = {"q": randn(total, case.h_q, case.d), "k": randn(total, case.h_k, case.d), "v": randn(total, case.h_k, case.d)}
        offsets = torch.tensor([0, *torch.tensor(case.lengths).cumsum(0).tolist()], dtype=torch.int32)
        tensors["cu_seqlens_q"] = tensors["cu_seqlens_k"] = offsets.to(device)
    else:
        tensors = {"q": randn(case.b, case.s_q, case.h_q, case.d), "k": randn(case.b, case.s_k, case.h_k, case.d),
                   "v": randn(case.b, case.s_k, case.h_k, case.d)}
    if case.page:
        tensors["k"], tensors["v"], tensors["block_table"] = _paged(case, tensors["k"], tensors["v"])
        tensors["seqused_k"] = torch.full((case.b,), case.s_k, dtype=torch.int32, device=device)
    if case.alibi:
        tensors["alibi"] = torch.exp2(-8.0 / case.h_q * torch.arange(1, case.h_q + 1, dtype=torch.float32)).to(device)
    if case.mask:
        tensors["mask"] = torch.rand(1, 1, case.s_q, case.s_k, device=device) < 0.5
    if case.tree:
        rows = tree_rows(case.tree)[case.tree - case.s_q:]
        tensors["tree_mask"] = rows.expand(case.b, case.s_q).reshape(case.b, case.s_q, 1).contiguous().to(device)
        tensors["tree_sizes"] = torch.full((case.b,), case.tree, dtype=torch.int32, device=device)
    tensors["o"] = torch.empty_like(tensors["q"])
    return tensors


def options(case):
    """The plain fields of the library's description."""
    fields = {"mask_kind": fa.MASK_TREE if case.tree else fa.MASK_CAUSAL if case.causal else fa.MASK_FULL,
              "diagonal": fa.DIAGONAL_TOP_LEFT if case.top_left else fa.DIAGONAL_BOTTOM_RIGHT,
              "window_left": case.window[0], "window_right": case.window[1], "softcap": case.softcap, "dropout_p": case.dropout}
    if case.lengths:
        fields |= {"batch": len(case.lengths), "max_s_q": max(case.lengths), "max_s_k": max(case.lengths)}
    if case.page:
        fields |= {"kv_layout": fa.KV_PAGED, "max_s_k": case.s_k}
    if case.kernel:
        fields["kernel"] = case.kernel.encode()
    return fields
