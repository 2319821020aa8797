#!/usr/bin/env python3
"""The demo on a GPU, with nothing compiled before: right, and done in 5 seconds. Skipped, visibly, without a GPU."""
import os
import subprocess
import sys
import tempfile
import time

MOST_SECONDS = 5


def main():
    tool = sys.argv[1]
    info = subprocess.run([tool, "info"], capture_output=True, text=True, check=True).stdout
    if "CUDA device 0" not in info:
        print("skipped: " + next(line for line in info.splitlines() if line.startswith("CUDA devices")))
        return 77
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, FLASH_ATTN_CACHE_DIR=folder + "/cache", FLASH_ATTN_ARCHIVE="")
        begin = time.monotonic()
        done = subprocess.run([tool, "demo", "--device", "cuda", "--svg", folder + "/map.svg"], capture_output=True, text=True, env=environment)
        seconds = time.monotonic() - begin
    print(done.stdout + done.stderr)
    print("%.2f s" % seconds)
    return 0 if done.returncode == 0 and "WRONG" not in done.stdout and seconds < MOST_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
