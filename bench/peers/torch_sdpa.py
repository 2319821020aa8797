#!/usr/bin/env python3
"""Times PyTorch's CPU scaled_dot_product_attention and flash-attn-lib side by side.

Same process, same number of threads, same tensors ([batch, head, row, dim] contiguous, PyTorch's order), rounds interleaved, medians.
Both sides are called as a user calls them: PyTorch's function allocates its output, ours plans the problem anew each time. With
--backward, PyTorch's autograd gives the gradients of q, k and v from a forward already made, and ours runs a plan made once.
Prints a table, geometric means and the smallest ratio of each group; --json FILE keeps every number.
"""
import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from flash_attn_ctypes import MASK_CAUSAL, MASK_FULL, Attention, Call, Library  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
TORCH_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# Two right answers differ by what rounding P and the result can do.
ALLOWED_DIFFERENCE = {"f32": 1e-4, "bf16": 4e-2, "f16": 5e-3}
# Of gradients; PyTorch adds them up in the inputs' type.
ALLOWED_GRADIENT_DIFFERENCE = {"f32": 2e-4, "bf16": 2e-1, "f16": 3e-2}
BACKWARD = 1  # fa_direction


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", help="libflash_attn.so; default: the newest below build/")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtypes", default="f32,bf16,f16")
    parser.add_argument("--groups", default="many,few,decode", help="many: batch*heads >= threads; few: fewer; decode: one query row")
    parser.add_argument("--dims", default="64,128")
    parser.add_argument("--lengths", default="256,512,1024,2048,4096,8192")
    parser.add_argument("--decode-lengths", default="8192,16384,65536")
    parser.add_argument("--backward", action="store_true", help="time the gradients; without decode")
    parser.add_argument("--thread-time", action="store_true", help="count the calling thread's processor time: one thread, busy machine")
    parser.add_argument("--warm-up", type=float, default=0.003,
                        help="seconds of calls before each timing; a busy machine takes 0.1 to spread woken threads over its processors")
    parser.add_argument("--isa", help="force the library's instruction set")
    parser.add_argument("--seconds", type=float, default=1.0, help="a case, both sides together")
    parser.add_argument("--json", help="file for all results")
    options = parser.parse_args()
    if options.thread_time and options.threads != 1:
        parser.error("--thread-time needs --threads 1")
    if options.backward:
        options.groups = ",".join(group for group in options.groups.split(",") if group != "decode")
    return options


def find_library():
    found = sorted((ROOT / "build").glob("**/libflash_attn.so"), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit("torch_sdpa.py: no libflash_attn.so below build/; build the project or name it with --library")
    return found[-1]


def make_cases(options):
    dims = [int(d) for d in options.dims.split(",")]
    lengths = [int(n) for n in options.lengths.split(",")]
    cases = []
    for group in options.groups.split(","):
        if group == "decode":
            for n in (int(n) for n in options.decode_lengths.split(",")):
                for name, h_q, h_k in (("mha", 8, 8), ("gqa4", 32, 8), ("gqa8", 32, 4)):
                    cases.append(dict(group=group, name=f"decode {name} {n}", h_q=h_q, h_k=h_k, s_q=1, s_k=n, d=128, causal=False))
            continue
        heads = options.threads if group == "many" else max(1, options.threads // 4)
        if group == "few" and heads >= options.threads:
            continue
        for d in dims:
            for n in lengths:
                for causal in (False, True):
                    name = f"h{heads} d{d} {n} {'causal' if causal else 'full'}"
                    cases.append(dict(group=group, name=name, h_q=heads, h_k=heads, s_q=n, s_k=n, d=d, causal=causal))
    return [dict(case, dtype=dtype) for dtype in options.dtypes.split(",") for case in cases]


def one_sample(call, least_seconds, clock, warm_up):
    """Seconds of one call: the other side's threads have gone to sleep, ours are awake, short calls are grouped."""
    time.sleep(0.03)  # OpenMP runtimes spin for up to 20 ms after a parallel region
    # A few milliseconds of calls: an idle processor of a virtual machine takes up to one to answer its wake-up call.
    begin = time.perf_counter()
    calls = 0
    while calls == 0 or time.perf_counter() - begin < warm_up:
        call()
        calls += 1
    once = (time.perf_counter() - begin) / calls
    count = max(1, math.ceil(least_seconds / max(once, 1e-7)))
    begin = clock()
    for _ in range(count):
        call()
    return (clock() - begin) / count


def time_pair(first, second, options):
    seconds, clock = options.seconds, time.thread_time if options.thread_time else time.perf_counter
    first(), second()
    samples = ([], [])
    end = time.perf_counter() + seconds
    while len(samples[0]) < 5 or (time.perf_counter() < end and len(samples[0]) < 200):
        # Who comes first alternates, so that neither side always finds the other's heat.
        order = ((0, first), (1, second)) if len(samples[0]) % 2 == 0 else ((1, second), (0, first))
        for index, call in order:
            samples[index].append(one_sample(call, 0.0005, clock, options.warm_up))
    return statistics.median(samples[0]), statistics.median(samples[1]), len(samples[0])


def forward_calls(case, library, options, q, k, v):
    """PyTorch's call, ours, and how far their results are apart."""
    gqa = case["h_q"] != case["h_k"]
    ours = Call(library, q, k, v, case["dtype"], case["causal"], options.isa)

    def theirs():
        return F.scaled_dot_product_attention(q, k, v, is_causal=case["causal"], enable_gqa=gqa)

    return theirs, ours, (ours().float() - theirs().float()).abs().max().item(), ours.kernel()


def backward_calls(case, library, options, q, k, v):
    """As forward_calls, of the gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
    with torch.enable_grad():
        out = F.scaled_dot_product_attention(*leaves, is_causal=case["causal"])
    dout = torch.randn_like(out)

    def theirs():
        return torch.autograd.grad(out, leaves, dout, retain_graph=True)

    settings = dict(mask_kind=MASK_CAUSAL if case["causal"] else MASK_FULL, scale=1.0 / math.sqrt(case["d"]))
    if options.isa:
        settings["isa"] = options.isa.encode()
    # Tensors of PyTorch's order, in the library's.
    tensors = {name: tensor.transpose(1, 2) for name, tensor in (("q", q), ("k", k), ("v", v), ("o", torch.empty_like(q)))}
    tensors["lse"] = torch.empty(q.shape[:3])
    Attention(library, tensors, settings)()
    tensors["dout"] = dout.transpose(1, 2)
    for name in ("q", "k", "v"):
        tensors["d" + name] = torch.empty_like(tensors[name])
    ours = Attention(library, tensors, dict(settings, direction=BACKWARD))
    ours()
    pairs = zip(("dq", "dk", "dv"), theirs())
    difference = max((tensors[name].transpose(1, 2).float() - right.float()).abs().max().item() for name, right in pairs)
    return theirs, ours, difference, ours.plan.kernel()


def run_case(case, library, options):
    torch.manual_seed(0)
    dtype = TORCH_DTYPES[case["dtype"]]
    q = torch.randn(1, case["h_q"], case["s_q"], case["d"]).to(dtype)
    k = torch.randn(1, case["h_k"], case["s_k"], case["d"]).to(dtype)
    v = torch.randn(1, case["h_k"], case["s_k"], case["d"]).to(dtype)
    make_calls = backward_calls if options.backward else forward_calls
    theirs, ours, difference, kernel = make_calls(case, library, options, q, k, v)
    torch_seconds, our_seconds, rounds = time_pair(theirs, ours, options)
    allowed = (ALLOWED_GRADIENT_DIFFERENCE if options.backward else ALLOWED_DIFFERENCE)[case["dtype"]]
    pairs = case["s_q"] * (case["s_q"] + 1) / 2 if case["causal"] else case["s_q"] * case["s_k"]
    products = 5 if options.backward else 2
    return dict(case, torch_seconds=torch_seconds, our_seconds=our_seconds, ratio=torch_seconds / our_seconds, rounds=rounds,
                kernel=kernel, max_difference=difference, flops=2 * products * case["h_q"] * pairs * case["d"],
                bytes=(k.numel() + v.numel()) * k.element_size(), is_right=difference <= allowed)


def measured_bandwidth(library_path, threads):
    """Read bandwidth by the program beside the library; None if it is not there."""
    for folder in pathlib.Path(library_path).resolve().parents[:3]:
        program = folder / "tools" / "flash-attn"
        if program.is_file():
            command = [program, "bench", "--json", "--filter", "small_call_1x16", "--dtype", "f32", "--seconds", "0.01",
                       "--threads", str(threads)]
            output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            if output:
                return json.loads(output.splitlines()[0])["ceilings"][0]["read_bytes"]
    return None


def print_row(row, bandwidth):
    if row["group"] == "decode":
        rate = row["bytes"] / row["our_seconds"] * 1e-9
        share = f", {100e9 * rate / bandwidth:.0f}% of read" if bandwidth else ""
        speed = f"{rate:8.1f} GB/s{share}"
    else:
        speed = f"{row['flops'] / row['our_seconds'] * 1e-9:8.0f} GFLOP/s (PyTorch {row['flops'] / row['torch_seconds'] * 1e-9:.0f})"
    verdict = "" if row["is_right"] else f"   WRONG: differs by {row['max_difference']:.2e}"
    print(f"{row['dtype']:5} {row['name']:24} {row['torch_seconds'] * 1e3:10.3f} {row['our_seconds'] * 1e3:10.3f} "
          f"{row['ratio']:7.2f}x  {speed}{verdict}", flush=True)


def summarise(rows):
    print(f"\n{'type':5} {'group':8} {'cases':>5} {'geometric mean':>15} {'smallest':>9}  in")
    summary = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        for group in dict.fromkeys(row["group"] for row in rows):
            part = [row for row in rows if row["dtype"] == dtype and row["group"] == group]
            if not part:
                continue
            mean = math.exp(statistics.fmean(math.log(row["ratio"]) for row in part))
            worst = min(part, key=lambda row: row["ratio"])
            summary.append(dict(dtype=dtype, group=group, cases=len(part), geometric_mean=mean, smallest=worst["ratio"],
                                smallest_case=worst["name"]))
            print(f"{dtype:5} {group:8} {len(part):5} {mean:14.2f}x {worst['ratio']:8.2f}x  {worst['name']}")
    return summary


def main():
    options = parse_arguments()
    path = options.library or find_library()
    library = Library(path)
    library.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    device = library.device_text()
    bandwidth = measured_bandwidth(path, options.threads) if "decode" in options.groups else None
    machine = dict(cpu=device.get("model", ""), isas=library.isa_names(), threads=options.threads, library=library.version(),
                   torch=torch.__version__, torch_cpu=torch.backends.cpu.get_cpu_capability(), read_bytes=bandwidth)
    print(f"{machine['cpu']}, {options.threads} threads; flash-attn-lib {machine['library']} ({options.isa or machine['isas'][0]}), "
          f"PyTorch {machine['torch']} ({machine['torch_cpu']})")
    if bandwidth:
        print(f"Measured read bandwidth {bandwidth * 1e-9:.1f} GB/s")
    print(f"\n{'type':5} {'case':24} {'PyTorch ms':>10} {'ours ms':>10} {'ratio':>8}  ours")
    rows = []
    with torch.no_grad():
        for case in make_cases(options):
            rows.append(run_case(case, library, options))
            print_row(rows[-1], bandwidth)
    summary = summarise(rows)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(dict(machine=machine, summary=summary, cases=rows), indent=1) + "\n")
    wrong = [row["name"] for row in rows if not row["is_right"]]
    if wrong:
        sys.exit(f"torch_sdpa.py: {len(wrong)} cases differ from PyTorch by more than rounding: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
