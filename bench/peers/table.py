#!/usr/bin/env python3
"""Prints the JSON files that torch_sdpa.py and torch_cuda.py wrote (--json) as Markdown tables, for docs/performance.md.

--into PAGE puts what torch_cuda.py measured into that page, between its two marks, instead: the page's GPU section is never typed.
"""
import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from gpu.report import Table  # noqa: E402

BEGIN, END = "<!-- torch_cuda.py: begin -->\n", "<!-- torch_cuda.py: end -->\n"

ROW = "| {dtype} | {name} | {theirs:.3f} | {ours:.3f} | {ratio:.2f} | {rate} |"


def rate_of(row):
    if row["group"] == "decode":
        return f"{row['bytes'] / row['our_seconds'] * 1e-9:.0f} GB/s"
    return f"{row['flops'] / row['our_seconds'] * 1e-9:.0f} GFLOP/s"


def cpu_text(result):
    lines = []
    machine = result["machine"]
    lines += [f"{machine['cpu']}, {machine['threads']} threads, {machine['isas'][0]}; PyTorch {machine['torch']}", ""]
    lines += ["| dtype | group | cases | geometric mean | smallest |", "|---|---|---|---|---|"]
    for part in result["summary"]:
        lines.append(f"| {part['dtype']} | {part['group']} | {part['cases']} | {part['geometric_mean']:.2f} | "
                     f"{part['smallest']:.2f} ({part['smallest_case']}) |")
    lines += ["", "| dtype | case | PyTorch ms | ours ms | ratio | ours |", "|---|---|---|---|---|---|"]
    for row in result["cases"]:
        lines.append(ROW.format(dtype=row["dtype"], name=row["name"], theirs=row["torch_seconds"] * 1e3,
                                ours=row["our_seconds"] * 1e3, ratio=row["ratio"], rate=rate_of(row)))
    return "\n".join(lines) + "\n"


def gpu_text(result):
    facts = "\n".join(f"- {key}: {value}" for key, value in result["machine"].items())
    return "\n".join([facts + "\n", *(Table(**table).markdown() for table in result["tables"])])


def put_into(page, text):
    path = pathlib.Path(page)
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"table.py: {page} has no {BEGIN.strip()} followed by {END.strip()}")
    path.write_text(before + begin + "\n" + text + "\n" + end + after, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="file.json")
    parser.add_argument("--into", metavar="PAGE")
    options = parser.parse_args()
    results = [json.loads(pathlib.Path(name).read_text(encoding="utf-8")) for name in options.files]
    if options.into:
        if any(result.get("kind") != "gpu" for result in results):
            sys.exit("table.py: --into takes the files of torch_cuda.py only")
        put_into(options.into, "\n".join(map(gpu_text, results)))
        return
    for result in results:
        print(gpu_text(result) if result.get("kind") == "gpu" else cpu_text(result))


main()
