"""One run of the GPU benchmarks: the library, the clock, the time left to a section, the tables so far; and how one problem is
built, checked and timed beside PyTorch. The sections, one file each, say which problems and what is asked of them.
"""
import ctypes
import math
import time
from concurrent.futures import ThreadPoolExecutor

import torch

import flash_attn_ctypes as fa
from gpu import backends, problems, reference
from gpu.timing import Side

OURS = "ours"


class Measured:
    """What was found for one problem: timings by name, the library's kernel, how far results were from the reference and from
    each other."""

    def __init__(self, case, kernel, error):
        self.case, self.kernel, self.error = case, kernel, error
        self.timings, self.differences = {}, {}

    def seconds(self, name=OURS):
        return self.timings[name].seconds if name in self.timings else None

    def tflops(self, flops, name=OURS):
        seconds = self.seconds(name)
        return flops / seconds * 1e-12 if seconds else None

    def over(self, name):
        """That one's time over ours: above 1, ours is faster."""
        return self.seconds(name) / self.seconds() if name in self.timings else None

    def is_right(self):
        allowed = reference.ALLOWED[self.case.dtype]
        # Two results differ by the rounding of both.
        return self.error <= allowed and all(value <= 2 * allowed for value in self.differences.values())

    def numbers(self):
        return {"case": self.case.name, "kernel": self.kernel, "error": self.error, "differences": self.differences,
                "seconds": {name: timing.seconds for name, timing in self.timings.items()},
                "spread": {name: [timing.least, timing.most] for name, timing in self.timings.items()}}


class Session:
    def __init__(self, library, clock, device="cuda", seed=0):
        self.library, self.clock, self.device, self.seed = library, clock, device, seed
        self.tables, self.wrong, self.failed, self._end = [], [], [], math.inf

    # ---- the section in progress

    def begin_section(self, budget_seconds):
        self._end = time.monotonic() + budget_seconds
        torch.manual_seed(self.seed)

    def within_budget(self, cases, table):
        """The cases, until the section's time is up; what is left out is said in the table."""
        cases = list(cases)
        for done, case in enumerate(cases):
            if time.monotonic() > self._end:
                table.say(f"time was up: {len(cases) - done} of {len(cases)} left out")
                return
            yield case

    def finish(self, table):
        self.tables.append(table)
        print("\n" + table.markdown(), flush=True)

    # ---- one problem

    def compile(self, cases):
        """Compiles what the cases' plans need, side by side; a refusal is met again when the case's turn comes."""
        self.compile_descriptions(
            fa.describe(self.library, problems.make_tensors(case, "meta"), problems.options(case)) for case in cases)

    def compile_descriptions(self, descriptions):
        begin = time.monotonic()
        context = self._context()
        plans = []
        for description in descriptions:
            try:
                plans.append(fa.Plan(self.library, description))
            except RuntimeError:
                pass

        def prepare(plan):
            try:
                plan.prepare(context)
            except RuntimeError:
                pass

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(prepare, plans))
        print(f"\n{len(plans)} plans made ready in {time.monotonic() - begin:.1f} s", flush=True)

    @staticmethod
    def _context():
        """The CUDA context of this thread, in which PyTorch works too."""
        torch.cuda.synchronize()
        context = ctypes.c_void_p()
        if ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(context)) != 0:
            raise RuntimeError("no CUDA context is current")
        return context

    def sets(self, case, most):
        """How many copies of a problem's tensors twice the L2 cache does not hold."""
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        return max(1, min(most, math.ceil(2 * cache / max(1, problems.bytes_of(case)))))

    def attentions(self, case, tensors):
        """A prepared call for each set of tensors, all of one plan; raises RuntimeError with the library's reason if it refuses."""
        plan = fa.Plan(self.library, fa.describe(self.library, tensors[0], problems.options(case)))
        plan.prepare()
        return [fa.Attention(self.library, one, dropout_seed=reference.DROPOUT_SEED, plan=plan) for one in tensors]

    def prepare(self, case, most_sets=1):
        """(Measured, its side): run once and compared with the reference."""
        tensors = [problems.make_tensors(case, self.device) for _ in range(self.sets(case, most_sets))]
        calls = self.attentions(case, tensors)
        tensors[0]["o"].fill_(math.nan)
        for call in calls:
            call()
        torch.cuda.synchronize()
        measured = Measured(case, calls[0].plan.kernel(), reference.relative_error(case, tensors[0]))
        return measured, Side(OURS, calls)

    def measure(self, case, peers=(), forced=(), most_sets=1):
        """Ours and each backend of `peers` that serves the case, and the library's kernels of `forced`, timed together."""
        measured, ours = self.prepare(case, most_sets)
        tensors = [call.tensors for call in ours.calls]
        sides = [ours]
        for name in peers:
            calls = [backends.sdpa_call(name, case, one) for one in tensors]
            result = backends.serves(calls[0])
            if result is not None:
                measured.differences[name] = backends.difference(result, tensors[0])
                sides.append(Side(name, calls))
        for name in forced:
            try:
                sides.append(Side(name, self.attentions(case.forced(name), tensors)))
            except RuntimeError:
                continue  # that kernel does not serve the case
        measured.timings = self.clock.time_together(sides)
        self.judge(measured)
        return measured

    def compare(self, cases):
        """Several problems of ours timed together; Measured for each."""
        found = [self.prepare(case) for case in cases]
        sides = []
        for number, (_, side) in enumerate(found):
            side.name = number
            sides.append(side)
        timings = self.clock.time_together(sides)
        for number, (measured, _) in enumerate(found):
            measured.timings = {OURS: timings[number]}
            self.judge(measured)
        return [measured for measured, _ in found]

    def judge(self, measured):
        if not measured.is_right():
            self.wrong.append(measured)
            print(f"WRONG: {measured.case} by {measured.kernel}: error {measured.error:.2e}, from others {measured.differences}",
                  flush=True)

    def fail(self, table, case, error):
        """A row for a case that the library does not serve, or that could not be timed."""
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        self.failed.append(case.name)
        table.add([case.name, f"failed: {reason}"] + ["-"] * (len(table.columns) - 2), case=case.name, failed=str(error))
