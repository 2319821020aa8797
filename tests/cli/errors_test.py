#!/usr/bin/env python3
"""What `flash-attn` says to wrong usage (exit code 2) and to anything else that is wrong (1): one line, nothing written."""
import os
import struct

import arrays
import program


class ErrorsTest(program.ProgramTest):
    def setUp(self):
        super().setUp()
        for name, shape in (("q", (1, 3, 4, 8)), ("k", (1, 5, 2, 8)), ("v", (1, 5, 2, 8))):
            arrays.write_npy(self.path(name + ".npy"), "<f4", shape, [0.5] * arrays.count(shape))
        arrays.write_npy(self.path("pq.npy"), "<f4", (3, 4, 8), [0.5] * 96)
        arrays.write_npy(self.path("pk.npy"), "<f4", (5, 2, 8), [0.5] * 80)
        arrays.write_npy(self.path("i1.npy"), "<i4", (1,), [3])
        arrays.write_npy(self.path("tree.npy"), "<u8", (3, 1), [1, 1, 1])
        arrays.write_npy(self.path("table.npy"), "<i4", (1, 1), [0])
        arrays.write_npy(self.path("cu.npy"), "<i4", (2,), [0, 3])

    def run_with(self, *options, q="q.npy", k="k.npy", v="v.npy"):
        return ["run", "--q", q, "--k", k, "--v", v, "--out", "o.npy", "--lse", "l.npy", *options]

    def run_backward(self, *options):
        return ["run", "--q", "q.npy", "--k", "k.npy", "--v", "v.npy", "--dout", "q.npy", "--dq", "dq.npy", "--dk", "dk.npy", "--dv",
                "dv.npy", *options]

    def test_usage(self):
        cases = [
            ([], "subcommand"),
            (["frobnicate"], "."),
            (["run"], "--q"),
            (["run", "--q", "q.npy", "--k", "k.npy", "--v", "v.npy"], "--out"),
            (["run", "--q"], "--q"),
            (self.run_with("--no-such-flag"), "no-such-flag"),
            (self.run_with("--dtype", "f64"), "--dtype is 'f64' but must be f32, bf16 or f16"),
            (self.run_with("--device", "tpu"), "--device is 'tpu'"),
            (self.run_with("--device", "cuda:x"), "--device is 'cuda:x'"),
            (self.run_with("--window", "3"), "--window is '3' but must be two whole numbers"),
            (self.run_with("--window", "3,4,5"), "--window"),
            (self.run_with("--scale", "big"), "--scale"),
            (self.run_with("--scale", "nan"), "--scale is nan"),
            (self.run_with("--threads", "0"), "--threads is 0 but must be 1 or more"),
            (self.run_with("--threads", "many"), "--threads"),
            (self.run_with("--num-splits", "-2"), "--num-splits is -2"),
            (self.run_with("--dropout", "1"), "--dropout is 1"),
            (self.run_with("--dropout=-0.1"), "--dropout is -0.1"),
            (self.run_with("--dropout", "nan"), "--dropout is nan"),
            (self.run_with("--seed", "-1", "--dropout", "0.1"), "--seed"),
            (self.run_with("--softcap", "-3"), "--softcap is -3"),
            (self.run_with("--causal-top-left", "--diag-offset", "1"), "--causal-top-left and --diag-offset"),
            (self.run_with("--tree-mask", "tree.npy", "--tree-size", "i1.npy", "--causal"), "--tree-mask and --causal"),
            (self.run_with("--tree-mask", "tree.npy"), "--tree-mask needs --tree-size"),
            (self.run_with("--tree-size", "i1.npy"), "--tree-size needs --tree-mask"),
            (self.run_with("--block-table", "table.npy", "--cu-seqlens-k", "cu.npy"), "--block-table and --cu-seqlens-k"),
            (self.run_with("--lse", "o.npy")[:9] + ["--lse", "o.npy"], "--out and --lse name the same file"),
            (self.run_with("--dout", "q.npy"), "--dout needs --dq"),
            (self.run_with("--dout", "q.npy", "--dq", "dq.npy", "--dk", "dk.npy"), "--dout needs --dv"),
            (self.run_with("--dq", "dq.npy"), "--dq needs --dout"),
            (self.run_with("--dlse", "l0.npy"), "--dlse needs --dout"),
            (self.run_backward("--dsink", "ds.npy"), "--dsink needs --sink"),
            (self.run_backward("--dbias", "db.npy"), "--dbias needs --bias"),
            (self.run_backward("--dslopes", "da.npy"), "--dslopes needs --alibi"),
            (self.run_backward("--block-table", "table.npy"), "--dout and --block-table cannot be given together"),
            (self.run_backward("--cache-batch-idx", "i1.npy"), "--dout and --cache-batch-idx cannot be given together"),
            (self.run_backward("--lse", "dk.npy"), "--lse and --dk name the same file, dk.npy"),
            (self.run_with(q="pq.npy"), "--q is packed .* needs --cu-seqlens-q"),
            (self.run_with("--cu-seqlens-q", "cu.npy", q="pq.npy", k="pk.npy", v="pk.npy"), "needs --cu-seqlens-k"),
            (self.run_with("--cu-seqlens-q", "cu.npy"), "--cu-seqlens-q is for packed"),
            (["bench", "--filter", "no such case"], "--filter is 'no such case'"),
            (["bench", "--dtype", "f64"], "--dtype is 'f64'"),
            (["bench", "--isa", "mmx"], "--isa is 'mmx'"),
            (["check", "--isa", "mmx"], "--isa is 'mmx'"),
            (["check", "--filter", "no such case"], "--filter"),
            (["explain", "--heads", "0"], "--heads is 0"),
            (["explain", "--case", "none"], "--case is 'none'"),
        ]
        for arguments, pattern in cases:
            with self.subTest(arguments):
                self.refuse(2, pattern, *arguments)

    def test_library_refusals(self):
        arrays.write_npy(self.path("k3.npy"), "<f4", (1, 5, 3, 8), [0.5] * 120)
        arrays.write_npy(self.path("d4.npy"), "<f4", (1, 5, 2, 4), [0.5] * 40)
        arrays.write_npy(self.path("big.npy"), "<i4", (1,), [6])
        arrays.write_npy(self.path("negative.npy"), "<i4", (1,), [-1])
        arrays.write_npy(self.path("slopes3.npy"), "<f4", (3,), [0.5] * 3)
        cases = [
            (self.run_with(k="k3.npy", v="k3.npy"), "3"),
            (self.run_with(k="d4.npy"), "8|4"),
            (self.run_with("--isa", "mmx"), "mmx"),
            (self.run_with("--kernel", "fastest"), "fastest"),
            (self.run_with("--window", "-7,0"), "window_left is -7"),
            (self.run_with("--seqused-k", "big.npy"), "seqused_k.* 6"),
            (self.run_with("--seqused-k", "negative.npy"), "seqused_k.* -1"),
            (self.run_with("--leftpad-k", "negative.npy"), "leftpad_k.* -1"),
            (self.run_with("--cache-batch-idx", "big.npy"), "cache_batch_idx.* 6"),
            (self.run_with("--alibi", "slopes3.npy"), "alibi"),
            (self.run_with("--tree-mask", "tree.npy", "--tree-size", "big.npy"), "tree_size.* 6"),
            (self.run_with("--device", "cuda:99"), "CUDA"),
        ]
        for arguments, pattern in cases:
            with self.subTest(arguments):
                self.refuse(1, pattern, *arguments)

    def test_files(self):
        good = self.path("q.npy").read_bytes()
        self.path("text.npy").write_text("hello\n")
        self.path("empty.npy").write_bytes(b"")
        self.path("cut.npy").write_bytes(good[:-4])
        self.path("long.npy").write_bytes(good + b"\0")
        self.path("header.npy").write_bytes(good[:30])
        self.path("version.npy").write_bytes(good[:6] + b"\x07" + good[7:])
        self.path("garbage.npy").write_bytes(good[:10] + b"?" * (len(good) - 10))
        self.path("folder.npy").mkdir()
        arrays.write_npy(self.path("double.npy"), "<f8", (1,), [1.0])
        arrays.write_npy(self.path("int.npy"), "<i4", (1, 3, 4, 8), [1] * 96)
        arrays.write_npy(self.path("fortran.npy"), "<f4", (1, 3, 4, 8), [1.0] * 96, fortran=True)
        arrays.write_npy(self.path("rank5.npy"), "<f4", (1, 1, 1, 1, 1), [1.0])
        for name, shape in (("negative", "(-1, 3, 4, 8)"), ("huge", "(4611686018427387904, 4, 4, 8)"), ("large", "(1, 99999999999, 4, 8)"),
                            ("words", "(a, b)"), ("beyond", "(99999999999999999999,)")):
            header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
            self.path(name + ".npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64)
        cases = [
            ("missing.npy", "missing.npy: cannot open .*No such file"), ("text.npy", "text.npy: is not a .npy file"),
            ("empty.npy", "empty.npy: is not a .npy file"), ("cut.npy", "cut.npy: is truncated: shape .* needs 384 bytes .* holds 380"),
            ("long.npy", "long.npy: has bytes left over"), ("header.npy", "header.npy: is truncated inside"),
            ("version.npy", "version.npy: has .npy format version 7"), ("garbage.npy", "garbage.npy: .npy header"),
            ("folder.npy", "folder.npy: is not a regular file"), ("double.npy", "double.npy: dtype '<f8' is not accepted"),
            ("int.npy", "--q holds int32 but must be float32"), ("fortran.npy", "fortran.npy: is in Fortran order"),
            ("rank5.npy", r"--q has shape \[1, 1, 1, 1, 1\]"), ("negative.npy", "negative.npy: .*negative extent -1"),
            ("huge.npy", "huge.npy: shape .* is larger than any file"), ("large.npy", "large.npy: is truncated"),
            ("words.npy", "words.npy: .npy header"), ("beyond.npy", "beyond.npy: .*beyond 63 bits"),
        ]
        for name, pattern in cases:
            with self.subTest(name):
                self.refuse(1, pattern, *self.run_with(q=name))

    def test_tables(self):
        arrays.write_npy(self.path("wide.npy"), "<i8", (1,), [1 << 40])
        arrays.write_npy(self.path("pair.npy"), "<i4", (2,), [1, 2])
        arrays.write_npy(self.path("float.npy"), "<f4", (1,), [1.0])
        self.refuse(1, "--seqused-k holds 1099511627776 at position 0", *self.run_with("--seqused-k", "wide.npy"))
        self.refuse(1, r"--seqused-k has shape \[2\] but must be \[1\]", *self.run_with("--seqused-k", "pair.npy"))
        self.refuse(1, "--seqused-k holds float32 but must be int32", *self.run_with("--seqused-k", "float.npy"))
        self.refuse(1, "--mask holds float32 but must be bool", *self.run_with("--mask", "float.npy"))
        self.refuse(1, "--tree-mask holds float32 but must be uint64", *self.run_with("--tree-mask", "float.npy", "--tree-size", "i1.npy"))

    def test_versions_2_and_3_are_read(self):
        for version in (2, 3):
            arrays.write_npy(self.path("q.npy"), "<f4", (1, 3, 4, 8), [0.5] * 96, version=version)
            self.succeed(*self.run_with())

    def test_safetensors(self):
        good = arrays.safetensors_bytes({"x": ("F32", (1, 3, 4, 8), b"\0" * 384), "half": ("F64", (1,), b"\0" * 8)})
        self.path("a.safetensors").write_bytes(good)
        self.path("cut.safetensors").write_bytes(good[:-300])
        self.path("short.safetensors").write_bytes(good[:5])
        self.path("text.safetensors").write_bytes(struct.pack("<Q", 5) + b"hello")
        self.path("long.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + good[8:])
        self.path("size.safetensors").write_bytes(arrays.safetensors_bytes({"x": ("F32", (1, 3, 4, 9), b"\0" * 384)}))
        cases = [
            ("a.safetensors:y", "a.safetensors: has no tensor 'y'; it holds 'half', 'x'"), ("a.safetensors", "needs the tensor's name"),
            ("a.safetensors:half", "has dtype 'F64'"), ("none.safetensors:x", "none.safetensors: cannot open"),
            ("cut.safetensors:x", "cut.safetensors: tensor 'x' lies at bytes"), ("short.safetensors:x", "too short"),
            ("text.safetensors:x", "not a JSON object"), ("long.safetensors:x", "not a .safetensors file"),
            ("size.safetensors:x", "has shape .* but 384 bytes"),
        ]
        for name, pattern in cases:
            with self.subTest(name):
                self.refuse(1, pattern, *self.run_with(q=name))
        self.succeed(*self.run_with(q="a.safetensors:x"))

    def test_outputs_are_all_or_nothing(self):
        self.refuse(1, "nowhere/l.npy: cannot create", "run", "--q", "q.npy", "--k", "k.npy", "--v", "v.npy", "--out", "o.npy", "--lse",
                    "nowhere/l.npy")
        self.path("o.npy").write_text("old")
        self.refuse(1, "missing.npy", *self.run_with(k="missing.npy"))
        self.assertEqual(self.path("o.npy").read_text(), "old")
        self.succeed(*self.run_with())
        self.assertNotEqual(self.path("o.npy").read_bytes()[:3], b"old")
        mask = os.umask(0)
        os.umask(mask)
        self.assertEqual(self.path("o.npy").stat().st_mode & 0o777, 0o666 & ~mask)

    def test_help_and_version(self):
        for arguments in (["--help"], ["run", "--help"], ["bench", "--help"], ["--version"]):
            self.assertTrue(self.succeed(*arguments))


if __name__ == "__main__":
    program.main()
