#!/usr/bin/env python3
"""`bench --tune` against a driver on which nothing runs: the search goes through, and what it writes is the table's text. Figures mean
nothing here. Usage: tune_test.py PROGRAM"""
import re
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop(1)
CLASS = r"\d+, \d+, \d+, (none|right|interval), (plain|lengths|paged|scores|lookups), (low|tall), (light|full), (few|some|many)"
FIELDS = {"sm80_fwd": ["tile_q", "tile_k", "warps", "blocks_per_sm"],
          "sm90_fwd": ["groups", "tile_k", "stages", "rotates_rows", "takes_turns", "q_buffers", "shares_q_buffer", "o_passes", "overlaps_tiles",
                       "polynomial_exp", "integer_tops", "consumer_registers", "producer_registers"]}


def tune(*arguments):
    return subprocess.run([PROGRAM, "bench", "--tune", *arguments], capture_output=True, text=True, check=False, timeout=250)


class TuneTest(unittest.TestCase):
    def check_table(self, kernel, text):
        lines = text.splitlines()
        self.assertTrue(lines[0].startswith("// " + kernel + " on "), lines[0])
        schedule = "".join(r", \.%s = \d+" % name for name in FIELDS[kernel])
        row = re.compile(r"FA_TUNED\(%s%s\)  // [\d.e+]+ TFLOP/s, rules [\d.e+]+; \d problems, \d+ schedules" % (CLASS, schedule))
        stand = re.compile(r"// %s: the rules' [\d.e+]+ TFLOP/s stand, best of others [\d.e+]+; \d problems, \d+ schedules" % CLASS)
        self.assertGreater(len(lines), 2)
        for line in lines[1:]:
            self.assertTrue(row.fullmatch(line) or stand.fullmatch(line), line)

    def test_each_kernel_has_a_table(self):
        for kernel in FIELDS:
            with tempfile.TemporaryDirectory() as folder:
                done = tune("--kernel", kernel, "--dim", "64", "--filter", "right, plain, tall", "--out", folder + "/table.inc")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertNotIn("WRONG", done.stderr)
                with open(folder + "/table.inc", encoding="utf-8") as file:
                    self.check_table(kernel, file.read())

    def test_wrong_usage(self):
        for message, arguments in (("--kernel is 'x'", ("--kernel", "x")), ("--device is 'cpu'", ("--device", "cpu")),
                                   ("--dim is 300", ("--dim", "300")), ("--filter is 'zzz'", ("--dim", "64", "--filter", "zzz"))):
            done = tune(*arguments)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(message, done.stderr)


if __name__ == "__main__":
    unittest.main()
