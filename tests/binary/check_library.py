#!/usr/bin/env python3
"""Reads the built shared library and the project's own objects, and prints what a packager asks: size, what it needs of a machine,
the oldest glibc it runs on, what it exports. Usage: check_library.py OBJDUMP NM STRIP LIBRARY OBJECT..."""

import os
import re
import subprocess
import sys
import tempfile

SIZE_BUDGET = 3_000_000
NEEDED = re.compile(r"^(libc\.so\.6|libm\.so\.6|ld-linux[-\w]*\.so\.[12])$")
GLIBC_CEILING = (2, 34)  # pthread moved into libc there; Debian 12, Ubuntu 22.04 and RHEL 9 have it
# What the library may never call: it returns a status instead.
FORBIDDEN = re.compile(r"^(abort|_?exit|_Exit|quick_exit|raise|kill|v?f?printf|__v?f?printf_chk|puts|putchar|fput[cs]|fwrite|perror"
                       r"|write|__assert_fail|__cxa_throw|_ZSt4cout|_ZSt4cerr|_ZSt4clog|_ZSt9terminatev)$")
# std::thread's destructor names std::terminate for threads that nobody joined; the pool joins or detaches all of its own.
ALLOWED = {("thread_pool.cpp.o", "_ZSt9terminatev")}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def glibc_floor(listing):
    versions = {tuple(int(n) for n in v.split(".")) for v in re.findall(r"GLIBC_(\d+(?:\.\d+)+)", listing)}
    return max(versions)


def forbidden_calls(nm, objects):
    breaches = []
    for path in objects:
        for line in run(nm, "--undefined-only", path).splitlines():
            name = line.split()[-1]
            if FORBIDDEN.match(name) and (os.path.basename(path), name) not in ALLOWED:
                breaches.append("%s calls %s; the library returns a status" % (os.path.basename(path), name))
    return breaches


def main():
    objdump, nm, strip, library = sys.argv[1:5]
    objects = sys.argv[5:]
    breaches = forbidden_calls(nm, objects)

    with tempfile.TemporaryDirectory() as folder:
        stripped = os.path.join(folder, "stripped.so")
        run(strip, "-o", stripped, library)
        size = os.path.getsize(stripped)
    print("size: %d bytes stripped (budget %d), %d as built" % (size, SIZE_BUDGET, os.path.getsize(library)))
    if size > SIZE_BUDGET:
        breaches.append("the stripped library has %d bytes" % size)

    headers = run(objdump, "-p", library)
    needed = re.findall(r"NEEDED\s+(\S+)", headers)
    print("needs: " + " ".join(needed))
    breaches += ["needs %s" % name for name in needed if not NEEDED.match(name)]
    floor = glibc_floor(headers)
    print("glibc floor: %s" % ".".join(map(str, floor)))
    if floor > GLIBC_CEILING:
        late = [line.split()[-1] for line in run(objdump, "-T", library).splitlines() if "GLIBC_%d.%d)" % floor in line]
        breaches.append("needs glibc %s for %s" % (".".join(map(str, floor)), " ".join(late)))

    exported = [line.split()[-1] for line in run(nm, "-D", "--defined-only", library).splitlines()]
    print("exports: %d symbols" % len(exported))
    breaches += ["exports " + name for name in exported if not re.match(r"fa_\w+(@@\w+)?$", name)]
    if not exported:
        breaches.append("exports nothing")

    for breach in breaches:
        print("  " + breach)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
