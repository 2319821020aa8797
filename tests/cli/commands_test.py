#!/usr/bin/env python3
"""The other sub-commands: info, explain, check, bench and demo do what they say on this machine."""
import json

import program


class CommandsTest(program.ProgramTest):
    def test_info(self):
        text = self.succeed("info")
        for key in ("model:", "instruction sets:", "threads:", "kernels:", "CUDA devices:"):
            self.assertIn(key, text)

    def test_explain(self):
        text = self.succeed("explain", "--s-q", "1", "--s-k", "8192", "--heads", "32", "--kv-heads", "8", "--dim", "128", "--dtype", "bf16")
        self.assertIn("kernel: cpu/", text)
        self.assertIn("h_q 32, h_k 8", text)
        self.assertIn("kernel: cpu/", self.succeed("explain", "--case", "small_call_16x16", "--dtype", "f16"))
        self.assertIn("paged", self.succeed("explain", "--page-size", "16", "--causal", "--window", "100,0"))

    def test_explain_a_gpu_that_is_not_there(self):
        text = self.succeed("explain", "--arch", "sm_90a", "--s-q", "8192", "--heads", "16", "--dim", "128", "--dtype", "bf16")
        self.assertRegex(text, r"kernel: cuda/sm\d0_fwd/sm_90a")
        self.assertIn("config: sm", text)
        self.assertRegex(text, r"expected: at least 0\.5\d* ms .*arithmetic 0\.5")  # 4 * 8192^2 * 16 * 128 operations at 990 TFLOP/s
        self.assertIn("kernel: cuda/", self.succeed("explain", "--arch", "sm_80", "--case", "small_call_16x16", "--dtype", "f16"))
        self.assertIn("\"sm_75\" but must be one of: sm_80", self.succeed("explain", "--arch", "sm_75"))

    def test_compile_names_what_is_wrong(self):
        self.refuse(1, "architectures is \"sm_91\"", "compile", "--arch", "sm_91", "--cases", "small_call_1x16", "--out", "x.kernels")
        self.refuse(2, "--cases has 'nothing'", "compile", "--arch", "sm_80", "--cases", "nothing", "--out", "x.kernels")
        self.refuse(2, "--out is required", "compile", "--arch", "sm_80")

    def test_check(self):
        text = self.succeed("check", "--filter", "dense", "--dtype", "f32")
        self.assertRegex(text, r"All \d+ runs of \d+ cases agree")

    def test_bench_table_and_plot(self):
        text = self.succeed("bench", "--filter", "small_call", "--dtype", "f32,bf16", "--seconds", "0.01", "--threads", "1", "--plot", "p.svg")
        self.assertIn("read", text)
        self.assertRegex(text, r"small_call_1x16 +f32 ")
        self.assertRegex(text, r"small_call_16x16 +bf16 ")
        self.assertTrue(self.path("p.svg").read_text().startswith("<svg"))

    def test_bench_json(self):
        lines = self.succeed("bench", "--filter", "small_call_1x16", "--seconds", "0.01", "--json", "--threads", "1,2").splitlines()
        records = [json.loads(line) for line in lines]
        self.assertEqual(records[0]["record"], "machine")
        self.assertEqual([c["threads"] for c in records[0]["ceilings"]], [1, 2])
        self.assertEqual([(r["dtype"], r["threads"]) for r in records[1:]], [(t, n) for t in ("f32", "bf16", "f16") for n in (1, 2)])
        for record in records[1:]:
            self.assertGreater(record["median_seconds"], 0)
            self.assertGreater(record["flops"], 0)

    def test_bench_list(self):
        self.assertIn("prefill_d64_1k_full", self.succeed("bench", "--list"))

    def test_demo(self):
        text = self.succeed("demo", "--svg", "map.svg")
        self.assertNotIn("WRONG", text)
        self.assertRegex(text, r'the word "it" looks at library \(2\d%\), book \(2\d%\)')
        drawing = self.path("map.svg").read_text()
        self.assertEqual(drawing.count("<title>"), 25 * 25)

    def test_demo_without_its_data(self):
        self.refuse(1, "nowhere/minilm.json: cannot open", "demo", "--fixture", "nowhere")


if __name__ == "__main__":
    program.main()
