#!/usr/bin/env python3
"""Where one kernel's time goes: runs one_call.py under Nsight Compute and prints tensor pipe use, stall reasons and shared memory.

    ncu.py --library build/release/src/libflash_attn.so --dim 128 --rows 8192 --causal        every option of one_call.py
    ncu.py --library ... --peer cuDNN ...                                                     the same problem by a peer

The launch profiled is the third, on clocks as they are. Needs ncu and the right to read the GPU's counters. Percentages are of what
the GPU can do at most; a stall's number is the warps that wait for that reason, on average, for each instruction issued.
"""
import csv
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
KERNELS = "regex:^sm[0-9]+_|flash|fmha|cudnn|sdpa"
SKIPPED_LAUNCHES = 2
SECTIONS = ("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "WarpStateStats", "SchedulerStats",
            "LaunchStats", "Occupancy")
# Title: the metrics' names (a pattern), how many are shown, largest first.
GROUPS = (
    ("Time and throughput",
     r"gpu__time_duration\.sum|(sm|gpu__dram|lts|l1tex)__?\w*throughput\.avg\.pct_of_peak_sustained_elapsed", 6),
    ("Pipes, cycles or instructions in use", r"sm__(pipe|inst_executed_pipe)_\w+\.avg\.pct_of_peak_sustained_active", 8),
    ("Stalls, warps waiting for each instruction issued", r"smsp__average_warps?_issue_stalled_\w+_per_issue_active\.ratio", 8),
    ("Issue", r"smsp__(issue_active|warps_active|warps_eligible)\.avg\.\w+", 4),
    ("Launch", r"launch__(grid_size|block_size|registers_per_thread|shared_mem_per_block\w*|waves_per_multiprocessor)", 12),
    ("Shared memory", r"\w*(bank_conflicts|data_pipe_lsu_wavefronts)\w*\.(sum|avg\.pct_of_peak_sustained_elapsed)", 8),
)


def profile(arguments):
    """The kernel's name and {metric: (value, unit)}."""
    command = ["ncu", "--csv", "--page", "raw", "--clock-control", "none", "--kernel-name", KERNELS, "--launch-skip",
               str(SKIPPED_LAUNCHES), "--launch-count", "1"]
    for section in SECTIONS:
        command += ["--section", section]
    command += [sys.executable, str(HERE / "one_call.py"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = run.stdout.splitlines()
    begin = next((number for number, line in enumerate(lines) if line.startswith('"ID"')), None)
    if begin is None or len(lines) < begin + 3:
        sys.exit("ncu.py: no kernel was profiled\n" + run.stdout[-2000:] + run.stderr[-2000:])
    names, units, values = list(csv.reader(lines[begin:begin + 3]))
    found = dict(zip(names, zip(values, units)))
    return found["Kernel Name"][0], found


def number(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return float("-inf")


def main():
    if "-h" in sys.argv or "--help" in sys.argv:
        print(__doc__)
        return 0
    if not shutil.which("ncu"):
        sys.exit("ncu.py: ncu (Nsight Compute) is not on the path")
    kernel, metrics = profile(sys.argv[1:])
    print(f"### {kernel}\n\none_call.py {' '.join(sys.argv[1:])}\n\n| metric | value |\n|---|---|")
    for title, pattern, most in GROUPS:
        rows = [(name, value, unit) for name, (value, unit) in metrics.items() if re.fullmatch(pattern, name)]
        rows = [row for row in rows if number(row[1]) != 0]
        print(f"| **{title}** | |")
        for name, value, unit in sorted(rows, key=lambda row: -number(row[1]))[:most]:
            print(f"| {name} | {value} {unit} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
