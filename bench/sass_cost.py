#!/usr/bin/env python3
"""What a Hopper kernel's main loops cost, read from its machine code without a GPU.

    sass_cost.py kernel.cubin [--groups 2] [--tile-k 128] [--nvdisasm PATH]
    sass_cost.py --self-test

Takes a cubin (FLASH_ATTN_DUMP=folder keeps them), a file of the kernel cache (its image holds one; archives are packed: let the kernel
into a cache instead), or a listing of `nvdisasm -c`. nvdisasm comes with the CUDA toolkit, or with `pip install nvidia-cuda-nvdisasm`.

A main loop is what lies between a branch backwards and its target and holds matrix products. Its fast path is the way through it
with the fewest instructions: what is skipped on it is listed apart. Clocks are those of a multiprocessor for one key tile of all
consumer groups, of the busiest unit alone; nothing of how units wait for each other is in them.
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
LABEL = re.compile(r"^(\.L_x?_?\w+):")
TARGET = re.compile(r"\((\.L_x?_?\w+)\)")
PRODUCT = re.compile(r"HGMMA\.64x(\d+)x16")

# Class: beginnings of opcodes. The first that fits counts.
CLASSES = [
    ("HGMMA", ("HGMMA",)),
    ("MUFU", ("MUFU",)),
    ("IMAD wide", ("IMAD.WIDE", "IMAD.HI")),
    ("move", ("MOV", "IMAD.MOV", "IMAD.U32", "CS2R", "NOP")),
    ("IMAD", ("IMAD", "IDP")),
    ("FP32", ("FFMA", "FADD", "FMUL")),
    ("FMNMX", ("FMNMX",)),
    ("conversion", ("F2F", "I2F", "F2I", "HADD2", "HMUL2", "HFMA2")),
    ("integer", ("LOP3", "IADD", "ISETP", "SEL", "FSEL", "FSETP", "PRMT", "SHF", "LEA", "VIADD", "VIMNMX", "IMNMX", "IABS", "PLOP3", "BMSK",
                 "SGXT", "P2R", "R2P", "HSETP2", "VABSDIFF", "LOP", "FCHK", "POPC", "FLO", "BREV", "ISCADD")),
    ("shuffle", ("SHFL",)),
    ("memory", ("LD", "ST", "ATOM", "RED", "UTMA", "UBLK", "CCTL")),
    ("barrier", ("BAR", "SYNCS", "WARPGROUP", "DEPBAR", "WARPSYNC", "FENCE", "MEMBAR", "ELECT", "VOTE", "BSSY", "BSYNC", "NANOSLEEP")),
    ("to uniform", ("R2UR", "S2UR", "R2U")),
    ("control", ("BRA", "BRX", "CALL", "RET", "EXIT", "JMP", "BREAK", "YIELD", "WARPSYNC", "ACQBULK")),
    ("uniform", ("U",)),
]


def class_of(opcode):
    return next((name for name, beginnings in CLASSES if opcode.startswith(beginnings)), "other")


class Instruction:
    def __init__(self, address, predicate, opcode, operands):
        self.address, self.predicate, self.opcode = address, predicate, opcode
        self.kind = class_of(opcode)
        target = TARGET.search(operands) if opcode.startswith("BRA") else None
        self.target = target.group(1) if target else None
        # `BRA P2, (..)` and `BRA.DIV` have a condition of their own.
        self.falls_through = bool(predicate) or opcode != "BRA" or bool(re.match(r"\s*!?U?P\d", operands))
        product = PRODUCT.match(opcode)
        self.columns = int(product.group(1)) if product else 0
        self.reads_shared = self.columns > 0 and operands.split(",")[1].strip().startswith("gdesc")


def parse(listing):
    code, labels = [], {}
    for line in listing.splitlines():
        label = LABEL.match(line.strip())
        if label:
            labels[label.group(1)] = len(code)
            continue
        found = LINE.search(line)
        if found:
            code.append(Instruction(int(found.group(1), 16), (found.group(2) or "").strip(), found.group(3), found.group(4)))
    return code, labels


def main_loops(code, labels):
    """Innermost [first, last] that hold products."""
    loops = set()
    for at, instruction in enumerate(code):
        to = labels.get(instruction.target)
        if to is not None and to <= at and any(i.columns for i in code[to:at + 1]):
            loops.add((to, at))
    # Of loops that share a first instruction the longest is the loop, the others are ways back to it.
    longest = {}
    for first, last in loops:
        longest[first] = max(last, longest.get(first, last))
    spans = sorted(longest.items())
    return [s for s in spans if not any(o != s and o[0] >= s[0] and o[1] <= s[1] for o in spans)]


def fast_path(code, labels, first, last):
    """Indices on the way with the fewest instructions, and runs of those that it skips; None if that way leaves the loop."""
    best = {first: (1, None)}
    for at in range(first, last + 1):
        if at not in best:
            continue
        to = labels.get(code[at].target)
        ways = ([at + 1] if code[at].falls_through else []) + ([to] if to is not None and at < to <= last else [])
        for way in ways:
            if way <= last and (way not in best or best[at][0] + 1 < best[way][0]):
                best[way] = (best[at][0] + 1, at)
    if last not in best:
        return None, None
    path, at = [], last
    while at is not None:
        path.append(at)
        at = best[at][1]
    path.reverse()
    taken, skipped = set(path), []
    for at in range(first, last + 1):
        if at not in taken:
            if skipped and skipped[-1][1] == at - 1:
                skipped[-1][1] = at
            else:
                skipped.append([at, at])
    return path, skipped


def count(code, indices):
    counts = {}
    for at in indices:
        counts[code[at].kind] = counts.get(code[at].kind, 0) + 1
    return counts


def clocks(code, indices, counts, groups):
    """Of a multiprocessor, for the loop once in every consumer group: four warps each, on four schedulers."""
    of = lambda *kinds: sum(counts.get(kind, 0) for kind in kinds)
    integers = of("IMAD", "IMAD wide")
    alu = of("FMNMX", "integer", "conversion")
    return {
        "tensor": groups * sum(code[at].columns for at in indices) / 2,
        "MUFU": groups * 8 * of("MUFU"),
        "issue": groups * len(indices),
        # 16 lanes: integers and comparisons; the half of the FMA lanes that multiplies integers, wide ones twice.
        "ALU": groups * 2 * alu,
        "FMA": groups * max(2 * integers + 2 * of("IMAD wide"), of("FP32") + integers + of("IMAD wide")),
        "memory": groups * 4 * of("memory", "shuffle"),
    }


def report_loop(code, labels, first, last, groups, tile_k):
    path, skipped = fast_path(code, labels, first, last)
    if path is None or not any(code[at].columns for at in path):
        return None
    counts = count(code, path)
    keys = tile_k or next((code[at].columns for at in path if code[at].reads_shared), 0)
    if keys == 0:
        raise SystemExit("give --tile-k: no product of the loop reads both its operands from shared memory")
    elements = keys / 2  # of a 64-row tile, in a lane
    print(f"loop {code[first].address:#x}..{code[last].address:#x}: {keys} keys, {len(path)} instructions = "
          f"{len(path) / elements:.2f} an element; all paths {last - first + 1}")
    print("  " + "  ".join(f"{name} {counts[name]} ({counts[name] / elements:.2f})" for name, _ in CLASSES + [("other", ())] if name in counts))
    for begin, end in skipped:
        part = count(code, range(begin, end + 1))
        if end - begin >= 8:
            print(f"  skipped {code[begin].address:#x}..{code[end].address:#x}: " + "  ".join(f"{k} {v}" for k, v in sorted(part.items())))
    terms = clocks(code, path, counts, groups)
    longest = max(terms, key=terms.get)
    print(f"  clocks a tile, {groups} groups: " + "  ".join(f"{k} {v:.0f}" for k, v in terms.items()) +
          f"  -> {terms[longest]:.0f} ({longest}), {terms[longest] / (groups * 64 * keys) * 128 * 128:.0f} for 128 x 128 scores")
    return counts, terms


def listing_of(path, nvdisasm):
    data = pathlib.Path(path).read_bytes()
    at = data.find(b"\x7fELF")
    if at < 0:
        return data.decode("utf-8", "replace")
    if not nvdisasm:
        raise SystemExit("nvdisasm was not found: it comes with the CUDA toolkit, or with `pip install nvidia-cuda-nvdisasm`; see --nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(data[at:])
        cubin.flush()
        return subprocess.run([nvdisasm, "-c", cubin.name], check=True, capture_output=True, text=True).stdout


SNIPPET = """
.L_x_0:
        /*0000*/                   HGMMA.64x16x16.F32.BF16 R24, gdesc[UR8], RZ, !UPT ;
        /*0010*/                   HGMMA.64x32x16.F32.BF16 R88, R120, gdesc[UR8].tnspB, R88, UP0 ;
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        /*0030*/                   FADD R1, R1, R2 ;
        /*0040*/                   IMAD.WIDE.U32 R2, R3, R4, RZ ;
.L_x_1:
        /*0050*/                   MUFU.EX2 R1, R1 ;
        /*0060*/                   F2FP.BF16.F32.PACK_AB R1, R2, R3 ;
        /*0070*/                   FFMA R1, R1, R2, R3 ;
        /*0080*/               @P1 BRA `(.L_x_0) ;
        /*0090*/                   EXIT ;
"""


def self_test():
    code, labels = parse(SNIPPET)
    assert [i.kind for i in code] == ["HGMMA", "HGMMA", "control", "FP32", "IMAD wide", "MUFU", "conversion", "FP32", "control", "control"]
    assert main_loops(code, labels) == [(0, 8)]
    path, skipped = fast_path(code, labels, 0, 8)
    assert path == [0, 1, 2, 5, 6, 7, 8] and skipped == [[3, 4]]
    counts, terms = report_loop(code, labels, 0, 8, 2, None)
    assert counts == {"HGMMA": 2, "control": 2, "MUFU": 1, "conversion": 1, "FP32": 1}
    assert terms == {"tensor": 48, "MUFU": 16, "issue": 14, "ALU": 4, "FMA": 2, "memory": 0}
    print("passed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--groups", type=int, default=2, help="consumer warp groups")
    parser.add_argument("--tile-k", type=int, help="keys a tile; else the width of the first product whose operands are both in shared memory")
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"))
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return self_test()
    if not options.file:
        parser.error("a file is needed")
    code, labels = parse(listing_of(options.file, options.nvdisasm))
    loops = main_loops(code, labels)
    if not loops:
        raise SystemExit(f"{options.file}: no loop with matrix products among {len(code)} instructions")
    for first, last in loops:
        report_loop(code, labels, first, last, options.groups, options.tile_k)


if __name__ == "__main__":
    sys.exit(main())
