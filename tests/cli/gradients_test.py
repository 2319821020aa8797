#!/usr/bin/env python3
"""`flash-attn run --dout`: every gradient file against differences of a double-precision forward."""
import math
import os
import random

import arrays
import attention
import program

DEVICE = [text for name in ("device",) if (value := os.environ.get("FLASH_ATTN_TEST_" + name.upper())) for text in ("--" + name, value)]
STEP = 1e-4
FEW = 12  # elements of each gradient that are compared


class GradientsTest(program.ProgramTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(4321)
        self.data, self.shapes = {}, {}

    def make(self, name, *shape):
        self.shapes[name] = shape
        self.data[name] = [arrays.to_f32(self.random.gauss(0, 1)) for _ in range(arrays.count(shape))]
        arrays.write_npy(self.path(name + ".npy"), "<f4", shape, self.data[name])

    def rows(self, name, r, h):
        b, s, heads, d = self.shapes[name]
        flat = self.data[name]
        return [flat[((r * s + i) * heads + h) * d :][:d] for i in range(s)]

    def loss(self, options):
        """sum(dout * o) + sum(dlse * lse), from self.data as it is now."""
        b, s_q, h_q, _ = self.shapes["q"]
        h_k, d_v = self.shapes["v"][2:]
        s_k = self.shapes["k"][1]
        total = 0.0
        for r in range(b):
            for h in range(h_q):
                keys, values = self.rows("k", r, h * h_k // h_q), self.rows("v", r, h * h_k // h_q)
                chosen = dict(options)
                if "bias" in self.data:
                    chosen["bias"] = lambda i, j, at=h * s_q * s_k: self.data["bias"][at + i * s_k + j]
                if "sink" in self.data:
                    chosen["sink"] = self.data["sink"][h]
                if "slopes" in self.data:
                    chosen["slope"] = self.data["slopes"][h]
                for i, q in enumerate(self.rows("q", r, h)):
                    o, lse = attention.attend_row(q, keys, values, i, s_q, chosen)
                    dout = self.data["dout"][((r * s_q + i) * h_q + h) * d_v :][:d_v]
                    total += sum(a * c for a, c in zip(o, dout))
                    if "dlse" in self.data and lse != -math.inf:
                        total += self.data["dlse"][(r * h_q + h) * s_q + i] * lse
        return total

    def compare(self, gradient, of, options, tolerance):
        descr, shape, got = arrays.read_npy(self.path(gradient + ".npy"))
        self.assertEqual((descr, shape), ("<f4", self.shapes[of]))
        values = self.data[of]
        for n in sorted(self.random.sample(range(len(values)), min(FEW, len(values)))):
            before = values[n]
            values[n] = before + STEP
            high = self.loss(options)
            values[n] = before - STEP
            low = self.loss(options)
            values[n] = before
            want = (high - low) / (2 * STEP)
            self.assertLessEqual(abs(got[n] - want), tolerance * max(1, abs(want)), f"{gradient}[{n}] is {got[n]}, must be {want}")

    def run_program(self, *options):
        self.succeed("run", "--q", "q.npy", "--k", "k.npy", "--v", "v.npy", "--dout", "dout.npy", "--dq", "dq.npy", "--dk", "dk.npy",
                     "--dv", "dv.npy", *DEVICE, *options)

    def make_all(self, b=2, s_q=4, s_k=6, h_q=4, h_k=2, d=8, d_v=5):
        self.make("q", b, s_q, h_q, d)
        self.make("k", b, s_k, h_k, d)
        self.make("v", b, s_k, h_k, d_v)
        self.make("dout", b, s_q, h_q, d_v)

    def test_required_files(self):
        for dtype, tolerance in (("f32", 2e-3), ("bf16", 0.1), ("f16", 0.02)):
            with self.subTest(dtype):
                self.make_all()
                self.run_program("--causal", "--dtype", dtype)
                self.assertFalse(self.path("o.npy").exists())
                for gradient, of in (("dq", "q"), ("dk", "k"), ("dv", "v")):
                    self.compare(gradient, of, dict(causal=True), tolerance)

    def test_every_file(self):
        self.make_all()
        self.make("dlse", 2, 4, 4)
        self.make("bias", 1, 4, 4, 6)
        self.make("sink", 4)
        self.make("slopes", 4)
        self.run_program("--softcap", "3", "--dlse", "dlse.npy", "--bias", "bias.npy", "--sink", "sink.npy", "--alibi", "slopes.npy",
                         "--dbias", "dbias.npy", "--dsink", "dsink.npy", "--dslopes", "dslopes.npy", "--out", "o.npy", "--lse", "l.npy")
        options = dict(softcap=3.0)
        for gradient, of in (("dq", "q"), ("dk", "k"), ("dv", "v"), ("dbias", "bias"), ("dsink", "sink"), ("dslopes", "slopes")):
            self.compare(gradient, of, options, 2e-3)
        self.assertEqual(arrays.read_npy(self.path("o.npy"))[1], (2, 4, 4, 5))
        self.assertEqual(arrays.read_npy(self.path("l.npy"))[1], (2, 4, 4))

    def test_rows_beyond_the_lengths_are_zero(self):
        self.make_all()
        arrays.write_npy(self.path("sq.npy"), "<i4", (2,), [4, 1])
        arrays.write_npy(self.path("sk.npy"), "<i4", (2,), [6, 2])
        self.run_program("--seqused-q", "sq.npy", "--seqused-k", "sk.npy")
        _, _, dq = arrays.read_npy(self.path("dq.npy"))
        _, _, dk = arrays.read_npy(self.path("dk.npy"))
        self.assertEqual(set(dq[(4 + 1) * 4 * 8 :]), {0.0})
        self.assertEqual(set(dk[(6 + 2) * 2 * 8 :]), {0.0})
        self.assertNotIn(0.0, dq[: (4 + 1) * 4 * 8])
        self.assertNotIn(0.0, dk[: (6 + 2) * 2 * 8])


if __name__ == "__main__":
    program.main()
