#!/usr/bin/env python3
"""Builds the two consumers with each compiler of this machine, C as strict C99, C++ as C++17 with both settings of libstdc++'s string
ABI, links them to one shared library and runs them. Usage: consumers.py LIBRARY INCLUDE-FOLDER SCRATCH-FOLDER"""

import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
WARNINGS = ["-Wall", "-Wextra", "-pedantic", "-Werror"]


def variants():
    """(label, compile command without files) of every build to try."""
    for compiler in ("gcc", "clang"):
        if shutil.which(compiler):
            yield compiler + " c99", "consumer.c", [compiler, "-std=c99", "-D_POSIX_C_SOURCE=200112L"]
    for compiler in ("g++", "clang++"):
        if shutil.which(compiler):
            for abi in (0, 1):
                yield ("%s c++17, string ABI %d" % (compiler, abi), "consumer.cpp",
                       [compiler, "-std=c++17", "-D_GLIBCXX_USE_CXX11_ABI=%d" % abi])


def main():
    library, include, scratch = sys.argv[1:4]
    os.makedirs(scratch, exist_ok=True)
    failed = 0
    tried = 0
    for label, source, command in variants():
        tried += 1
        program = os.path.join(scratch, "consumer%d" % tried)
        build = subprocess.run(command + WARNINGS + ["-I", include, os.path.join(HERE, source), library, "-Wl,-rpath," +
                                                     os.path.dirname(library), "-o", program], capture_output=True, text=True)
        ran = subprocess.run([program], capture_output=True, text=True) if build.returncode == 0 else None
        good = ran is not None and ran.returncode == 0
        print("%s: %s" % (label, "ok" if good else "does not build" if ran is None else "exit %d" % ran.returncode))
        if not good:
            print(build.stderr + (ran.stdout + ran.stderr if ran else ""))
            failed += 1
    if tried < 3:
        print("only %d builds could be tried: at least gcc and g++ are needed" % tried)
    return 1 if failed or tried < 3 else 0


if __name__ == "__main__":
    sys.exit(main())
