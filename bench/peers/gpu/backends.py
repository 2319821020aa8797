"""PyTorch's attention on the problems of problems.py, one backend at a time. Knows nothing of the library or of time."""
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "FA2": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}


def sdpa_call(backend, case, tensors):
    """A call of scaled_dot_product_attention over the same memory, in PyTorch's order; its result is [b, h, s, d].

    PyTorch's causal mask starts at the top left, so a case is only the same problem with case.top_left or where s_q == s_k."""
    q, k, v = (tensors[name].transpose(1, 2) for name in ("q", "k", "v"))
    backend, is_grouped = BACKENDS[backend], case.h_q != case.h_k

    def call():
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=case.causal, enable_gqa=is_grouped)
    return call


def serves(call):
    """The result of a first call, or None if PyTorch refuses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every reason
        try:
            result = call()
            torch.cuda.synchronize()
            return result
        except RuntimeError:
            return None


def difference(result, tensors):
    """Norm of the difference between PyTorch's result and o, over that of o."""
    theirs, ours = result.transpose(1, 2), tensors["o"]
    wrong, right = 0.0, 0.0
    for batch in range(ours.shape[0]):  # request by request: fp32 copies of all may not fit
        wrong += float((theirs[batch].float() - ours[batch].float()).square().sum())
        right += float(ours[batch].float().square().sum())
    return (wrong / max(right, 1e-30)) ** 0.5
