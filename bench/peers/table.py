#!/usr/bin/env python3
"""Prints the JSON files that torch_sdpa.py wrote (--json) as Markdown tables, for docs/performance.md."""
import json
import sys

ROW = "| {dtype} | {name} | {theirs:.3f} | {ours:.3f} | {ratio:.2f} | {rate} |"


def rate_of(row):
    if row["group"] == "decode":
        return f"{row['bytes'] / row['our_seconds'] * 1e-9:.0f} GB/s"
    return f"{row['flops'] / row['our_seconds'] * 1e-9:.0f} GFLOP/s"


def print_file(path):
    with open(path, encoding="utf-8") as file:
        result = json.load(file)
    machine = result["machine"]
    print(f"{machine['cpu']}, {machine['threads']} threads, {machine['isas'][0]}; PyTorch {machine['torch']}\n")
    print("| dtype | group | cases | geometric mean | smallest |\n|---|---|---|---|---|")
    for part in result["summary"]:
        print(f"| {part['dtype']} | {part['group']} | {part['cases']} | {part['geometric_mean']:.2f} | "
              f"{part['smallest']:.2f} ({part['smallest_case']}) |")
    print("\n| dtype | case | PyTorch ms | ours ms | ratio | ours |\n|---|---|---|---|---|---|")
    for row in result["cases"]:
        print(ROW.format(dtype=row["dtype"], name=row["name"], theirs=row["torch_seconds"] * 1e3, ours=row["our_seconds"] * 1e3,
                         ratio=row["ratio"], rate=rate_of(row)))
    print()


for name in sys.argv[1:]:
    print_file(name)
