#!/usr/bin/env python3
"""`flash-attn run` end to end: every option against a double-precision reference, every element type, both file formats."""
import math
import os
import random
import struct

import arrays
import attention
import program

# Where to run and with which kernel; nothing: the CPU and its choice.
DEVICE = [text for name in ("device", "kernel") if (value := os.environ.get("FLASH_ATTN_TEST_" + name.upper())) for text in ("--" + name, value)]
TOLERANCE = {"f32": 2e-6, "bf16": 2.5e-2, "f16": 3e-3}


class RunTest(program.ProgramTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(1234)

    def values(self, shape):
        return [arrays.to_f32(self.random.gauss(0, 1)) for _ in range(arrays.count(shape))]

    def save(self, name, shape, values, descr="<f4"):
        arrays.write_npy(self.path(name), descr, shape, values)
        return name

    def table(self, name, values, shape=None):
        return self.save(name, shape or (len(values),), values, "<i4")

    def make(self, b=2, s_q=5, s_k=9, h_q=4, h_k=2, d=8, d_v=8):
        """q, k, v as files and as nested rows: q[b][h][i], k[b][h][j]."""
        self.dims = (b, s_q, s_k, h_q, h_k, d, d_v)
        self.q = self._tensor("q.npy", b, s_q, h_q, d)
        self.k = self._tensor("k.npy", b, s_k, h_k, d)
        self.v = self._tensor("v.npy", b, s_k, h_k, d_v)

    def _tensor(self, name, b, s, h, d):
        flat = self.values((b, s, h, d))
        self.save(name, (b, s, h, d), flat)
        row = lambda r, i, n: flat[((r * s + i) * h + n) * d : ((r * s + i) * h + n + 1) * d]
        return [[[row(r, i, n) for i in range(s)] for n in range(h)] for r in range(b)]

    def run_program(self, *options, lse=True):
        outputs = ["--out", "o.npy", *(["--lse", "l.npy"] if lse else []), *DEVICE]
        self.succeed("run", "--q", "q.npy", "--k", "k.npy", "--v", "v.npy", *outputs, *options)

    def compare(self, options=None, dtype="f32", lengths_q=None, lengths_k=None, start_k=None, per_head=None):
        """Compare o.npy and l.npy with the reference; lengths per request shorten the rows, start_k skips keys."""
        b, s_q, s_k, h_q, h_k, _, d_v = self.dims
        descr, shape, o = arrays.read_npy(self.path("o.npy"))
        self.assertEqual((descr, shape), ("<f4", (b, s_q, h_q, d_v)))
        descr, shape, lse = arrays.read_npy(self.path("l.npy"))
        self.assertEqual((descr, shape), ("<f4", (b, h_q, s_q)))
        near = arrays.ROUND[dtype]
        for r in range(b):
            rows = s_q if lengths_q is None else lengths_q[r]
            first, last = (start_k or [0] * b)[r], s_k if lengths_k is None else lengths_k[r]
            for h in range(h_q):
                keys = [[near(x) for x in row] for row in self.k[r][h * h_k // h_q][first:last]]
                values = [[near(x) for x in row] for row in self.v[r][h * h_k // h_q][first:last]]
                chosen = dict(options or {}, **(per_head(r, h) if per_head else {}))
                for i in range(s_q):
                    got = o[((r * s_q + i) * h_q + h) * d_v :][:d_v]
                    got_lse = lse[(r * h_q + h) * s_q + i]
                    if i >= rows:
                        self.assertEqual((got, got_lse), ((0.0,) * d_v, -math.inf), "a row beyond the request's length")
                        continue
                    want, want_lse = attention.attend_row([near(x) for x in self.q[r][h][i]], keys, values, i, rows, chosen)
                    self.check_row(got, want or [0.0] * d_v, got_lse, want_lse, dtype, f"request {r} head {h} row {i}")

    def check_row(self, got, want, got_lse, want_lse, dtype, where):
        for a, b in zip(got, want):
            self.assertLessEqual(abs(a - b), TOLERANCE[dtype] * max(1, abs(b)), where)
            self.assertEqual(a, arrays.ROUND[dtype](a), f"{where}: o is not rounded to {dtype}")
        if want_lse == -math.inf:
            self.assertEqual(got_lse, want_lse, where)
        else:
            self.assertLessEqual(abs(got_lse - want_lse), 1e-5 * max(1, abs(want_lse)) if dtype == "f32" else 1e-3, where)

    def test_dense_in_every_type(self):
        for dtype in ("f32", "bf16", "f16"):
            with self.subTest(dtype):
                self.make(d=16, d_v=5)
                self.run_program("--dtype", dtype)
                self.compare(dtype=dtype)

    def test_float16_files_compute_in_f16(self):
        self.make()
        for name in ("q", "k", "v"):
            _, shape, values = self._reread(name)
            self.save(name + ".npy", shape, values, "<f2")
        self.run_program()
        self.compare(dtype="f16")

    def _reread(self, name):
        raw = self.path(name + ".npy").read_bytes()
        (length,) = struct.unpack("<H", raw[8:10])
        shape = eval(raw[10 : 10 + length].decode(), {})["shape"]
        return "<f4", shape, struct.unpack(f"<{arrays.count(shape)}f", raw[10 + length :])

    def test_lse_is_optional(self):
        self.make()
        self.run_program(lse=False)
        self.assertFalse(self.path("l.npy").exists())

    def test_masks(self):
        cases = {
            ("--causal",): dict(causal=True),
            ("--causal-top-left",): dict(causal=True, delta=0),
            ("--causal", "--diag-offset", "2"): dict(causal=True, delta=2),
            ("--diag-offset", "-1", "--window", "1,2"): dict(delta=-1, window=(1, 2)),
            ("--diag-offset=-7", "--causal"): dict(delta=-7, causal=True),
            ("--window", "2,0"): dict(window=(2, 0)),
            ("--window", "-1,1"): dict(window=(-1, 1)),
            ("--window=-1,-1",): dict(),
            ("--causal", "--window", "3,-1"): dict(causal=True, window=(3, -1)),
        }
        for arguments, options in cases.items():
            with self.subTest(arguments):
                self.make()
                self.run_program(*arguments)
                self.compare(options)

    def test_score_options(self):
        for arguments, options in {("--scale", "0.7"): dict(scale=0.7), ("--scale=-0.5",): dict(scale=-0.5),
                                   ("--softcap", "1.5"): dict(softcap=1.5)}.items():
            with self.subTest(arguments):
                self.make()
                self.run_program(*arguments)
                self.compare(options)

    def test_alibi_and_sink(self):
        self.make()
        slopes, per_request, sinks = [0.1, 0.5, 0.0, 1.0], self.values((2, 4)), [0.3, -1.0, 2.0, 5.0]
        self.save("slopes.npy", (4,), slopes)
        self.save("slopes2.npy", (2, 4), per_request)
        self.save("sink.npy", (4,), sinks)
        self.run_program("--alibi", "slopes.npy", "--sink", "sink.npy")
        self.compare(per_head=lambda r, h: dict(slope=slopes[h], sink=sinks[h]))
        self.run_program("--alibi", "slopes2.npy", "--causal")
        self.compare(dict(causal=True), per_head=lambda r, h: dict(slope=per_request[r * 4 + h]))

    def test_bias_and_mask(self):
        self.make()
        bias, mask = self.values((1, 4, 5, 9)), [self.random.random() < 0.6 for _ in range(2 * 5 * 9)]
        self.save("bias.npy", (1, 4, 5, 9), bias)
        self.save("mask.npy", (2, 1, 5, 9), mask, "|b1")
        self.run_program("--bias", "bias.npy", "--mask", "mask.npy")
        self.compare(per_head=lambda r, h: dict(bias=lambda i, j: bias[(h * 5 + i) * 9 + j], mask=lambda i, j: mask[(r * 5 + i) * 9 + j]))

    def test_bias_stays_float32_in_16_bit(self):
        self.make()
        bias = self.values((1, 1, 5, 9))
        self.save("bias.npy", (1, 1, 5, 9), bias)
        self.run_program("--bias", "bias.npy", "--dtype", "bf16")
        self.compare(dict(bias=lambda i, j: bias[i * 9 + j]), dtype="bf16")

    def test_tree(self):
        self.make()
        words = [self.random.getrandbits(6) for _ in range(10)]
        sizes = [6, 3]
        self.save("tree.npy", (10, 1), words, "<u8")
        self.table("sizes.npy", sizes)
        self.run_program("--tree-mask", "tree.npy", "--tree-size", "sizes.npy")
        self.compare(per_head=lambda r, h: dict(tree=([[w] for w in words[5 * r : 5 * r + 5]], sizes[r])))

    def test_lengths(self):
        self.make()
        self.table("sq.npy", [3, 5])
        self.save("sk.npy", (2,), [7, 0], "<i8")
        self.table("pad.npy", [2, 0])
        self.run_program("--seqused-q", "sq.npy", "--seqused-k", "sk.npy", "--leftpad-k", "pad.npy", "--causal")
        self.compare(dict(causal=True), lengths_q=[3, 5], lengths_k=[7, 0], start_k=[2, 0])

    def test_cache_batch_idx(self):
        self.make()
        self.table("idx.npy", [1, 0])
        self.run_program("--cache-batch-idx", "idx.npy")
        self.k, self.v = self.k[::-1], self.v[::-1]
        self.compare()

    def test_paged(self):
        self.make(b=2, s_k=9)
        b, s_q, s_k, h_q, h_k, d, d_v = self.dims
        place = {(0, 0): 4, (0, 1): 0, (0, 2): 5, (1, 0): 2, (1, 1): 1, (1, 2): 3}
        for name, rows, dim in (("k", self.k, d), ("v", self.v, d_v)):
            pages = [math.nan] * (6 * 4 * h_k * dim)
            for r in range(b):
                for j in range(s_k):
                    for h in range(h_k):
                        at = ((place[r, j // 4] * 4 + j % 4) * h_k + h) * dim
                        pages[at : at + dim] = rows[r][h][j]
            self.save(name + ".npy", (6, 4, h_k, dim), pages)
        self.table("table.npy", [place[0, n] for n in range(3)] + [place[1, n] for n in range(3)], (2, 3))
        self.table("sk.npy", [9, 6])
        self.run_program("--block-table", "table.npy", "--seqused-k", "sk.npy", "--causal")
        self.compare(dict(causal=True), lengths_k=[9, 6])

    def test_packed(self):
        self.make(b=1, s_q=7, s_k=11)
        for name, rows, heads, dim in (("q", 7, 4, 8), ("k", 11, 2, 8), ("v", 11, 2, 8)):
            _, _, values = self._reread(name)
            self.save(name + ".npy", (rows, heads, dim), values)
        self.table("cq.npy", [0, 3, 3, 7])
        self.table("ck.npy", [0, 4, 6, 11])
        self.run_program("--cu-seqlens-q", "cq.npy", "--cu-seqlens-k", "ck.npy", "--causal")
        descr, shape, o = arrays.read_npy(self.path("o.npy"))
        self.assertEqual((descr, shape), ("<f4", (7, 4, 8)))
        _, shape, lse = arrays.read_npy(self.path("l.npy"))
        self.assertEqual(shape, (4, 7))
        for q0, q1, k0, k1 in ((0, 3, 0, 4), (3, 7, 6, 11)):
            for h in range(4):
                for i in range(q1 - q0):
                    want, want_lse = attention.attend_row(self.q[0][h][q0 + i], self.k[0][h // 2][k0:k1], self.v[0][h // 2][k0:k1], i,
                                                          q1 - q0, dict(causal=True))
                    at = ((q0 + i) * 4 + h) * 8
                    self.check_row(o[at : at + 8], want, lse[h * 7 + q0 + i], want_lse, "f32", f"row {q0 + i} head {h}")

    def test_dropout(self):
        self.make()
        seed, offset = (1 << 40) + 77, 5
        self.run_program("--dropout", "0.3", "--seed", seed, "--offset", offset)
        self.compare(per_head=lambda r, h: dict(dropout=(0.3, seed, offset, r, h)))

    def test_choices_do_not_change_the_result(self):
        self.make(s_q=2, s_k=90)
        info = self.succeed("info")
        isas = next(line for line in info.splitlines() if line.startswith("instruction sets:")).split(": ")[1].split()
        if DEVICE:
            isas = []
        for arguments in (("--num-splits", "3"), ("--threads", "1"), ("--deterministic",), *[("--isa", isa) for isa in isas]):
            with self.subTest(arguments):
                self.run_program(*arguments)
                self.compare()

    def test_safetensors(self):
        self.make()
        tensors = {}
        for name, rows in (("q", self.q), ("k", self.k), ("v", self.v)):
            _, shape, values = self._reread(name)
            tensors["layer.0." + name] = ("BF16", shape, b"".join(struct.pack("<H", arrays.bf16_bits(x)) for x in values))
        self.path("all.safetensors").write_bytes(arrays.safetensors_bytes(tensors))
        files = [part for name in "qkv" for part in ("--" + name, f"all.safetensors:layer.0.{name}")]
        self.succeed("run", *files, "--out", "o.npy", "--lse", "l.npy")
        self.compare(dtype="bf16")

    def test_no_rows_and_no_keys(self):
        self.make(s_k=0)
        self.run_program()
        self.compare()
        self.make(s_q=0)
        self.run_program()
        self.compare()


if __name__ == "__main__":
    program.main()
