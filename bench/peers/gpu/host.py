"""What a call costs the thread that makes it: by the program flash-attn-host-time, whose loops are compiled, and PyTorch's call as
Python makes it. Only the program's figures are held against limits.
"""
import json
import subprocess

import torch

from gpu import backends, problems
from gpu.problems import Case
from gpu.report import Table, microseconds
from gpu.timing import host_seconds

PYTHON_CASE = Case("b 1, 512 rows, h 16, d 128, causal", 1, 512, 512, 16, 16, 128, "bf16", True)


def _run_program(program):
    output = subprocess.run([program, "--json"], capture_output=True, text=True, check=False, timeout=120)
    if output.returncode != 0:
        raise RuntimeError(output.stderr.strip() or f"{program} ended with {output.returncode}")
    return [json.loads(line) for line in output.stdout.splitlines()]


def _program_table(session, options):
    table = Table("host", "Host time of a call, compiled loops",
                  ("call", "launches", "parameter bytes", "bare us", "run us", "over bare, a launch", "plan and run us",
                   "planning adds"),
                  "Bare: cuLaunchKernelEx of an empty kernel with the same grid, block, shared memory and number of parameter "
                  "bytes, as often as the run launches.")
    if not options.host_program:
        table.say("flash-attn-host-time was not found (--host-program): left out")
    else:
        rows = _run_program(options.host_program)
        for row in rows:
            extra, planning = (row["run_us"] - row["bare_us"]) / row["launches"], row["plan_run_us"] - row["run_us"]
            table.add([row["name"], row["launches"], "+".join(map(str, row["parameter_bytes"])), f"{row['bare_us']:.2f}",
                       f"{row['run_us']:.2f}", f"{extra:.2f}", f"{row['plan_run_us']:.2f}", f"{planning:.2f}"],
                      **row, extra_us=extra, planning_us=planning)
        table.require("most that a run costs over bare launches, of one launch, us", max(row["extra_us"] for row in table.rows),
                      1.0, is_least=False)
        table.require("most that planning adds, us", max(row["planning_us"] for row in table.rows), 3.0, is_least=False)
    session.finish(table)


def _python_table(session):
    table = Table("host", "Host time of a call from Python", ("call", "us"),
                  f"bf16, {PYTHON_CASE.name}; a call of ours is one of fa_run by ctypes.")
    tensors = problems.make_tensors(PYTHON_CASE, session.device)
    calls = {"fa_run": session.attentions(PYTHON_CASE, [tensors])[0]}
    for name in ("cuDNN", "FA2"):
        call = backends.sdpa_call(name, PYTHON_CASE, tensors)
        if backends.serves(call) is not None:
            calls[f"scaled_dot_product_attention, {name} chosen in each call"] = call
    q, k, v = (tensors[name].transpose(1, 2) for name in ("q", "k", "v"))
    attend = torch.nn.functional.scaled_dot_product_attention
    calls["scaled_dot_product_attention, backend by PyTorch"] = lambda: attend(q, k, v, is_causal=True)
    for name, call in calls.items():
        seconds = host_seconds(call)
        table.add([name, microseconds(seconds)], name=name, seconds=seconds)
    session.finish(table)


def run(session, options):
    try:
        _program_table(session, options)
    finally:
        _python_table(session)
