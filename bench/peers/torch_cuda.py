#!/usr/bin/env python3
"""Times the library on an NVIDIA GPU beside PyTorch's cuDNN and FlashAttention-2 backends: the tables of docs/performance.md.

Same process, same tensors (random normal, never zeros), calls captured into CUDA graphs on both sides, interleaved rounds, medians
of device time. Every result is compared with an fp32 reference, and with the other's, before it is timed; a wrong one, or a case
that fails, makes the exit status 1. Kernels are compiled ahead, side by side. Sections are named on the command line; none: all,
in the order below.
"""
import argparse
import datetime
import hashlib
import json
import pathlib
import subprocess
import sys
import time
import traceback

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import flash_attn_ctypes as fa  # noqa: E402
from gpu import backward, ceilings, decode, features, head_dims, host, random_shapes, settings  # noqa: E402
from gpu.session import Session  # noqa: E402
from gpu.timing import Clock  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Name: what runs it, seconds it may take.
SECTIONS = {
    "ceilings": (ceilings.run, 10),
    "settings": (settings.run_settings, 60),
    "decode": (decode.run, 25),
    "mma": (settings.run_mma, 30),
    "head_dims": (head_dims.run, 40),
    "features": (features.run, 75),
    "host": (host.run, 20),
    "random": (random_shapes.run, 90),
    "backward": (backward.run_settings, 90),
    "gradient_features": (backward.run_features, 40),
}
HOST_PROGRAM = "flash-attn-host-time"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--library", help="libflash_attn.so; default: the newest below build/")
    parser.add_argument("--host-program", help=f"{HOST_PROGRAM}; default: that of the library's build")
    parser.add_argument("--dtypes", default="bf16,f16", help="of the settings and of decoding")
    parser.add_argument("--kernel", default="", help="the library's kernel in the settings, forced by name")
    parser.add_argument("--random-shapes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20261124, help="of random shapes, lengths and tensors")
    parser.add_argument("--rounds", type=int, default=9, help="samples of each side")
    parser.add_argument("--slice", type=float, default=0.006, help="seconds of device work in a sample")
    parser.add_argument("--read-bandwidth", type=float, default=4.4, help="TB/s, for the floor of decoding")
    parser.add_argument("--budget", action="append", default=[], metavar="SECTION=SECONDS",
                        help="time of a section; then its remaining cases are left out, and the table says so")
    parser.add_argument("--json", help="file for every number")
    options = parser.parse_args()
    options.sections = options.sections or list(SECTIONS)
    options.dtypes = options.dtypes.split(",")
    options.budgets = {name: seconds for name, (_, seconds) in SECTIONS.items()}
    for entry in options.budget:
        name, _, seconds = entry.partition("=")
        if name not in SECTIONS or not seconds:
            parser.error(f"--budget is {entry} but must be one of {', '.join(SECTIONS)}, then = and seconds")
        options.budgets[name] = float(seconds)
    for name in options.sections:
        if name not in SECTIONS:
            parser.error(f"section {name} is none of {', '.join(SECTIONS)}")
    return options


def find_files(options):
    if not options.library:
        found = sorted((ROOT / "build").glob("**/libflash_attn.so"), key=lambda path: path.stat().st_mtime)
        if not found:
            sys.exit("torch_cuda.py: no libflash_attn.so below build/; build the project or name it with --library")
        options.library = str(found[-1])
    if not options.host_program:
        folder = pathlib.Path(options.library).resolve().parent
        for path in (folder.parent / "bench" / HOST_PROGRAM, folder / HOST_PROGRAM):
            if path.is_file():
                options.host_program = str(path)


def first_line(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def machine_facts(library, options):
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--format=csv,noheader", "--id=0"]
    with open(options.library, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()[:16]
    return {"GPU": f"{properties.name}, {properties.multi_processor_count} multiprocessors, {properties.total_memory >> 30} GiB, "
                   f"{properties.L2_cache_size >> 20} MiB of L2",
            "driver": first_line([*query, "--query-gpu=driver_version"]),
            "clocks and power": first_line([*query, "--query-gpu=clocks.max.sm,clocks.max.mem,power.limit"]),
            "PyTorch": f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
            "library": f"{library.version()}, SHA-256 {digest}",
            "settings": f"seed {options.seed}, {options.rounds} rounds of {options.slice * 1e3:g} ms a side",
            "date": datetime.date.today().isoformat()}


def run_section(name, session, options):
    begin = time.monotonic()
    session.begin_section(options.budgets[name])
    try:
        SECTIONS[name][0](session, options)
        is_done = True
    except (RuntimeError, OSError, subprocess.SubprocessError, ValueError, KeyError):
        traceback.print_exc()
        is_done = False
    torch.cuda.empty_cache()
    print(f"({name}: {time.monotonic() - begin:.1f} s)", flush=True)
    return is_done


def main():
    options = parse_arguments()
    find_files(options)
    if not torch.cuda.is_available():
        sys.exit("torch_cuda.py: PyTorch sees no GPU")
    torch.set_grad_enabled(False)
    torch.zeros(1, device="cuda")  # makes the context current
    library = fa.Library(options.library)
    machine = machine_facts(library, options)
    for key, value in machine.items():
        print(f"- {key}: {value}", flush=True)
    session = Session(library, Clock(options.slice, options.rounds), seed=options.seed)
    failed = []
    for name in options.sections:
        if not run_section(name, session, options):
            failed.append(name)
        if options.json:  # after each section, so that a run cut short leaves what it has
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump({"kind": "gpu", "machine": machine, "tables": [table.as_json() for table in session.tables]}, file)
    if failed:
        print(f"\nsections failed: {', '.join(failed)}")
    if session.failed:
        print(f"\ncases failed: {len(session.failed)}, the first is {session.failed[0]}")
    if session.wrong:
        print(f"\nWRONG: {len(session.wrong)} results")
    return 1 if failed or session.failed or session.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
