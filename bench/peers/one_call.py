#!/usr/bin/env python3
"""Runs one problem a few times on the GPU, by the library or one of PyTorch's backends: what a profiler is pointed at (ncu.py)."""
import argparse
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import flash_attn_ctypes as fa  # noqa: E402
from gpu import backends, problems  # noqa: E402


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, help="libflash_attn.so")
    parser.add_argument("--peer", choices=list(backends.BACKENDS), help="PyTorch's backend instead of the library")
    parser.add_argument("--kernel", default="", help="the library's kernel, by name")
    parser.add_argument("--dtype", default="bf16", choices=list(problems.DTYPES))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8192, help="query rows")
    parser.add_argument("--keys", type=int, help="default: as many as rows")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--kv-heads", type=int, help="default: as many as heads")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--calls", type=int, default=3)
    return parser.parse_args()


def main():
    options = parse_arguments()
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    case = problems.Case("profiled", options.batch, options.rows, options.keys or options.rows, options.heads,
                         options.kv_heads or options.heads, options.dim, options.dtype, options.causal, kernel=options.kernel)
    tensors = problems.make_tensors(case, "cuda")
    if options.peer:
        call = backends.sdpa_call(options.peer, case, tensors)
    else:
        call = fa.Attention(fa.Library(options.library), tensors, problems.options(case))
    for _ in range(options.calls):
        call()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
