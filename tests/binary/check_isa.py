#!/usr/bin/env python3
"""Reads the object files of src/cpu/isa/ and fails on what would be wrong at run time and cannot be seen in the source.
symbols: an object compiled for a newer instruction set defines a symbol that others could be linked to. spills: an inner block
function keeps vectors on the stack. Usage: check_isa.py symbols|spills|self-test NM-OR-OBJDUMP OBJECT..."""

import os
import re
import subprocess
import sys

BLOCK_FUNCTION = re.compile(r"(qk_block|pv_block|kd_block|exp_block|gradient_block)")
EXPONENTIAL = re.compile(r"(exp_block|gradient_block)")
STACK_STORE = re.compile(r",[-0-9a-fx]*\(%r[sb]p\)$|\bst[rp]\s")
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


def stack_vectors(body):
    """Instructions of a function body, as (address, text), that move a vector register from or to the stack frame."""
    text_of_frame = "\n".join(text for _, text in body)
    frame_pointer = re.search(r"(mov|lea)\s+.*%rsp.*,%rbp", text_of_frame)
    stack = r"\(%r[sb]p[,)]" if frame_pointer else r"\(%rsp[,)]"
    x86 = re.compile(r"%[yz]mm\d+.*" + stack + "|" + stack + r".*%[yz]mm\d+")
    arm = re.compile(r"\b(st|ld)[rp]\s+q\d+.*\[(sp|x29)")
    return [(address, text) for address, text in body if x86.search(text) or arm.search(text)]


def innermost_loops(body):
    """(first, last) addresses of the loops that hold no other loop: spans of backward jumps."""
    spans = []
    for address, text in body:
        jump = re.match(r"(?:j\w+|b\.\w+|b|cbn?z\s+\w+,|tbn?z\s+\w+,\s*\S+,)\s+(?:0x)?([0-9a-f]+)\b", text)
        if jump and int(jump.group(1), 16) <= address:
            spans.append((int(jump.group(1), 16), address))
    return [s for s in spans if not any(t != s and s[0] <= t[0] and t[1] <= s[1] for t in spans)]


def spill_breaches(listing):
    """(block functions seen, breaches) of an `objdump -d` listing. Around a loop a vector may rest on the stack; inside it may not."""
    functions, body = {}, None
    for line in listing.splitlines():
        head = FUNCTION_HEAD.match(line)
        if head:
            body = functions.setdefault(head.group(1), []) if BLOCK_FUNCTION.search(head.group(1)) else None
        instruction = re.match(r"\s+([0-9a-f]+):\s+(.*)", line)
        if body is not None and instruction:
            body.append((int(instruction.group(1), 16), instruction.group(2)))
    breaches = []
    for name, body in functions.items():
        loops = innermost_loops(body)
        if not loops:
            breaches.append("%s has no loop: this reader no longer understands the listing" % name)
        for address, text in stack_vectors(body):
            # Sixteen registers do not hold the constants of an exponential: it may read (not write) its loop's invariants there.
            if EXPONENTIAL.search(name) and not STACK_STORE.search(text):
                continue
            if any(first <= address <= last for first, last in loops):
                breaches.append("%s keeps a vector on the stack in its loop: %x: %s" % (name, address, text))
    return list(functions), breaches


def self_test():
    """The two readers must find planted breaches, or a pass of theirs means nothing."""
    table = "0000 D kTable\n"
    assert symbol_breaches(table + "0000 t local\n                 U memcpy\n") == []
    assert len(symbol_breaches(table + "0000 W std::max\n")) == 1
    assert len(symbol_breaches(table + "0000 T other\n")) == 1
    assert len(symbol_breaches("0000 t local\n")) == 1
    loop = "0000000000000010 <%s>:\n  10:\tmov    %%rsp,%%rbp\n  14:\t%s\n  18:\t%s\n  1c:\tjne    18 <x+0x8>\n  20:\tret\n"
    inside = lambda name, text: len(spill_breaches(loop % (name, "nop", text))[1])
    assert inside("qk_block", "vmovaps %zmm1,0x40(%rsp)") == 1
    assert inside("a_pv_block_b", "vmovaps %ymm3,-0x40(%rbp)") == 1
    assert inside("pv_block", "vfmadd231ps 0x40(%rsp),%ymm1,%ymm2") == 1
    assert inside("exp_block", "vfmadd231ps 0x40(%rsp),%ymm1,%ymm2") == 0
    assert inside("exp_block", "vmovaps %ymm1,-0x40(%rsp)") == 1
    assert inside("kd_block", "vfmadd231ps 0x40(%rsp),%ymm1,%ymm2") == 1
    assert inside("gradient_block", "vfmadd231ps 0x40(%rsp),%ymm1,%ymm2") == 0
    assert inside("qk_block", "vmovaps %zmm1,0x40(%rax)") == 0
    assert inside("outer", "vmovaps %zmm1,0x40(%rsp)") == 0
    assert len(spill_breaches(loop % ("qk_block", "vmovaps %zmm1,0x40(%rsp)", "nop"))[1]) == 0
    assert spill_breaches("0000000000000010 <qk_block>:\n  10:\tret\n")[1]
    arm = "0000000000000010 <exp_block>:\n  10:\tstp\tq8, q9, [sp, #-64]!\n  14:\t%s\n  18:\tb.ne\t14 <x+0x4>  // b.any\n"
    assert len(spill_breaches(arm % "str\tq0, [sp, #16]")[1]) == 1
    assert len(spill_breaches(arm % "str\tq0, [x0, #16]")[1]) == 0


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
