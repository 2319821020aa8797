#!/usr/bin/env python3
"""Plants breaches of the tree's laws and expects script/check_tree.py to report each; a clean file must pass. It knows the checker's
functions, not the project's files."""

import importlib.util
import os
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SPEC = importlib.util.spec_from_file_location("check_tree", os.path.join(ROOT, "script", "check_tree.py"))
check_tree = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_tree)

OPENING = "// What this file is, its place, what it must not know.\n"


def breaches(check, path, text):
    found = []
    report = lambda p, n, message: found.append(n)
    lines = text.splitlines()
    {"includes": lambda: check_tree.check_includes(path, lines, report),
     "budgets": lambda: check_tree.check_budgets(path, text, lines, report),
     "opening": lambda: check_tree.check_opening(path, lines, report),
     "links": lambda: check_tree.check_links(path, lines, report),
     "words": lambda: check_tree.check_words(path, lines, report)}[check]()
    return found


class IncludeLaw(unittest.TestCase):
    def expect(self, allowed, path, include):
        self.assertEqual(breaches("includes", path, "#include %s\n" % include), [] if allowed else [1], (path, include))

    def test_rooms(self):
        self.expect(True, "src/api/plan.cpp", '"core/problem.h"')
        self.expect(False, "src/api/plan.cpp", '"cpu/device.h"')
        self.expect(True, "src/core/registry.cpp", '"cpu/device.h"')
        self.expect(False, "src/core/plan.cpp", '"cpu/device.h"')
        self.expect(False, "src/core/plan.cpp", '"api/error.h"')
        self.expect(True, "src/cpu/launch.cpp", '"core/problem.h"')
        self.expect(False, "src/cpu/launch.cpp", '"cuda/driver.h"')
        self.expect(False, "src/cuda/launch.cpp", '"cpu/device.h"')
        self.expect(False, "src/math/mask.h", '"core/problem.h"')
        self.expect(False, "src/math/mask.h", "<vector>")
        self.expect(True, "src/math/types.h", "<cstdint>")

    def test_kernels(self):
        self.expect(True, "src/cpu/kernels/panel.h", '"cpu/simd.h"')
        self.expect(True, "src/cpu/kernels/panel.h", '"math/mask.h"')
        self.expect(False, "src/cpu/kernels/panel.h", '"core/problem.h"')
        self.expect(False, "src/cpu/kernels/panel.h", '"cpu/device.h"')
        self.expect(False, "src/cuda/kernels/fwd.cuh", "<vector>")
        self.expect(True, "src/cpu/entries/panel.cpp", '"cpu/kernels/params.h"')
        self.expect(False, "src/cpu/entries/panel.cpp", '"cpu/kernels/panel.h"')
        self.expect(True, "src/cpu/isa/avx2.cpp", '"cpu/kernels/panel.h"')

    def test_outside(self):
        self.expect(False, "include/flash_attn/flash_attn.h", '"core/problem.h"')
        self.expect(False, "tests/oracle/attention_f64.cpp", '"math/mask.h"')
        self.expect(True, "tests/oracle/attention_f64.cpp", '"tests/cases.h"')
        self.expect(False, "tools/flash-attn/run.cpp", '"core/problem.h"')
        self.expect(True, "tools/flash-attn/run.cpp", '"flash_attn/flash_attn.h"')


class Budgets(unittest.TestCase):
    def test_file(self):
        self.assertEqual(breaches("budgets", "src/core/plan.cpp", "\n" * 400), [])
        self.assertEqual(breaches("budgets", "src/core/plan.cpp", "\n" * 401), [401])
        self.assertEqual(breaches("budgets", "src/cpu/kernels/panel.h", "\n" * 600), [])
        self.assertEqual(breaches("budgets", "src/cpu/kernels/panel.h", "\n" * 601), [601])
        self.assertEqual(breaches("budgets", "src/CMakeLists.txt", "\n" * 151), [151])

    def function(self, head, lines, tail="}\n"):
        return OPENING + "namespace a {\nstruct S {\n  int x = 0;\n};\n" + head + " {\n" + "  x += '{';\n" * (lines - 2) + tail + "}  // namespace a\n"

    def test_function(self):
        self.assertEqual(breaches("budgets", "src/core/plan.cpp", self.function("int f(int a)", 60)), [])
        self.assertEqual(breaches("budgets", "src/core/plan.cpp", self.function("int f(int a)", 61)), [6])
        self.assertEqual(breaches("budgets", "src/cuda/kernels/fwd.cuh", self.function("void role(int a)", 150)), [])
        self.assertEqual(breaches("budgets", "src/core/plan.cpp", self.function("S::S(int a) : x{a}", 61)), [6])
        self.assertEqual(breaches("budgets", "src/core/plan.cpp", self.function("template <class T>\nauto g(T a) const -> T", 61)), [6])

    def test_data_is_free(self):
        self.assertEqual(breaches("budgets", "src/core/plan.cpp", self.function("const int kTable[] =", 100, "};\n")), [])


class Text(unittest.TestCase):
    def test_opening(self):
        self.assertEqual(breaches("opening", "src/core/plan.cpp", OPENING), [])
        self.assertEqual(breaches("opening", "src/core/plan.cpp", "// See plan.h.\n"), [])
        self.assertEqual(breaches("opening", "src/core/plan.cpp", "// See other.h.\n"), [1])
        self.assertEqual(breaches("opening", "src/core/plan.cpp", "#include <vector>\n"), [1])
        self.assertEqual(breaches("opening", "script/test", "#!/bin/sh\nset -e\n"), [2])

    def test_words(self):
        for line in ("// TO" "DO: later", "// FIX" "ME", "// see /wo" "rk/main", "// as iss" "ue 7 asks", "// return x + 1;", "// if (a) {",
                     "// x = f(y);", "int a;  "):
            self.assertEqual(breaches("words", "src/core/plan.cpp", line + "\n"), [1], line)
        for line in ("// The keys are visited in order; see mask.h.", "// A row that sees no key is 0", "int a;", "// 3 / work / 4"):
            self.assertEqual(breaches("words", "src/core/plan.cpp", line + "\n"), [], line)

    def test_links(self):
        self.assertEqual(breaches("links", "README.md", "[a](LICENSE) [b](docs/design.md#semantics) [c](https://example.org/x)\n"), [])
        self.assertEqual(breaches("links", "docs/design.md", "[a](LICENSE)\n"), [1])

    def test_names(self):
        for stem in ("utils", "string_utils", "common", "helpers", "misc"):
            self.assertTrue(check_tree.BAD_STEMS.search(stem), stem)
        self.assertFalse(check_tree.BAD_STEMS.search("problem"))


if __name__ == "__main__":
    unittest.main()
