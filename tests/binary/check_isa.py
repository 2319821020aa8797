#!/usr/bin/env python3
"""Reads the object files of src/cpu/isa/ and fails on what would be wrong at run time and cannot be seen in the source.
symbols: an object compiled for a newer instruction set defines a symbol that others could be linked to. spills: an inner block
function keeps vectors on the stack. Usage: check_isa.py symbols|spills|self-test NM-OR-OBJDUMP OBJECT..."""

import os
import re
import subprocess
import sys

BLOCK_FUNCTION = re.compile(r"(qk_block|pv_block|exp_block)")
FUNCTION_HEAD = re.compile(r"^[0-9a-f]+ <(.+)>:$")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def symbol_breaches(listing):
    """Names of an `nm` listing that the linker may merge (weak, unique), and the global ones: exactly one table is wanted."""
    shared, exported = [], []
    for line in listing.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        kind, name = fields[1], fields[2]
        if kind in "WVuwv":
            shared.append(name)
        elif kind in "TDRBGSC":
            exported.append(name)
    breaches = ["may be merged with another object's: " + name for name in shared]
    if len(exported) != 1:
        breaches.append("exports %d symbols, not its one table: %s" % (len(exported), ", ".join(exported)))
    return breaches


def spill_breaches(listing):
    """(block functions seen, breaches) of an `objdump -d` listing: vector stores whose address is in the stack frame."""
    seen, breaches, name, frame_pointer = [], [], None, False
    for line in listing.splitlines():
        head = FUNCTION_HEAD.match(line)
        if head:
            name = head.group(1) if BLOCK_FUNCTION.search(head.group(1)) else None
            frame_pointer = False
            if name:
                seen.append(name)
            continue
        if not name:
            continue
        if re.search(r"(mov|lea)\s.*%rsp.*,%rbp", line):
            frame_pointer = True
        stack = r"\(%r[sb]p" if frame_pointer else r"\(%rsp"
        x86 = re.search(r"%[yz]mm\d+(\{%k\d\})?,-?(0x[0-9a-f]+)?" + stack, line)
        arm = re.search(r"\bst[rp]\s+q\d+.*\[(sp|x29)", line)
        if x86 or arm:
            breaches.append("%s keeps a vector on the stack: %s" % (name, line.split("\t", 1)[-1].strip()))
    return seen, breaches


def self_test():
    """The two readers must find planted breaches, or a pass of theirs means nothing."""
    table = "0000 D kTable\n"
    assert symbol_breaches(table + "0000 t local\n                 U memcpy\n") == []
    assert len(symbol_breaches(table + "0000 W std::max\n")) == 1
    assert len(symbol_breaches(table + "0000 T other\n")) == 1
    assert len(symbol_breaches("0000 t local\n")) == 1
    body = "0000000000000000 <%s>:\n   0:\t62 f1\tvmovaps %%zmm1,%s\n"
    assert spill_breaches(body % ("qk_block", "0x40(%rsp)"))[1]
    assert not spill_breaches(body % ("qk_block", "0x40(%rax)"))[1]
    assert not spill_breaches(body % ("outer", "0x40(%rsp)"))[1]
    assert not spill_breaches(body % ("pv_block", "0x40(%rbp)"))[1]
    framed = "0000000000000000 <pv_block>:\n   0:\t48\tmov    %rsp,%rbp\n   3:\t62\tvmovaps %ymm3,-0x40(%rbp)\n"
    assert len(spill_breaches(framed)[1]) == 1
    assert spill_breaches("0000000000000000 <exp_block>:\n   0:\t3d80\tstr\tq0, [sp, #16]\n")[1]
    assert not spill_breaches("0000000000000000 <exp_block>:\n   0:\t6d\tstp\td8, d9, [sp, #-64]!\n")[1]


def main():
    mode = sys.argv[1]
    if mode == "self-test":
        self_test()
        print("planted breaches are found")
        return 0
    tool = sys.argv[2]
    objects = [o for o in sys.argv[3:] if "/cpu/isa/" in o]
    if not objects:
        print("no object of src/cpu/isa/ was given")
        return 1
    failed = False
    for path in objects:
        label = os.path.basename(path)
        if mode == "symbols":
            breaches = symbol_breaches(run(tool, "--defined-only", path))
            print("%s: %d breaches" % (label, len(breaches)))
        else:
            seen, breaches = spill_breaches(run(tool, "-d", "--no-show-raw-insn", path))
            if not seen and "baseline" not in label:
                breaches.append("has no function named qk_block, pv_block or exp_block: nothing was checked")
            print("%s: %d block functions, %d breaches" % (label, len(seen), len(breaches)))
        for breach in breaches:
            print("  " + breach)
        failed = failed or bool(breaches)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
