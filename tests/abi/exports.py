#!/usr/bin/env python3
"""The shared library must export the functions that the header declares, all of them and nothing else. Usage: exports.py NM LIBRARY
HEADER"""

import re
import subprocess
import sys


def main():
    nm, library, header = sys.argv[1:4]
    with open(header, encoding="utf-8") as file:
        code = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.DOTALL)
    declared = set(re.findall(r"^FA_API\b[^;(]*?\b(fa_\w+)\(", code, re.MULTILINE))
    listing = subprocess.run([nm, "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    exported = {line.split()[-1].split("@")[0] for line in listing.splitlines()}
    for name in sorted(declared - exported):
        print("declared but not exported: " + name)
    for name in sorted(exported - declared):
        print("exported but not declared: " + name)
    print("%d functions declared, %d exported" % (len(declared), len(exported)))
    return 0 if declared and declared == exported else 1


if __name__ == "__main__":
    sys.exit(main())
