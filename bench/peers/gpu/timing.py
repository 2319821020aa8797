"""Times calls on a GPU side by side: captured into CUDA graphs, replayed in interleaved rounds, medians.

A graph takes the host out of the measure on both sides; what the host costs is measured elsewhere (host.py). Each side may bring
several calls over different tensors, which are taken in turn so that the cache does not hold the next one's. Knows nothing of
attention or of who is timed.
"""
import math
import statistics
import time
from dataclasses import dataclass, field

import torch


@dataclass
class Timing:
    """Seconds of one call on the device: the median of rounds, and the smallest and largest round."""

    seconds: float
    least: float
    most: float
    rounds: int


@dataclass
class Side:
    """One who is timed: its name and its calls, each over its own tensors."""

    name: str
    calls: list
    samples: list = field(default_factory=list)


class Clock:
    """`slice_seconds` of device work a sample, `rounds` samples a side, about `most_calls` calls in a graph."""

    def __init__(self, slice_seconds, rounds, most_calls=60):
        self.slice_seconds, self.rounds, self.most_calls = slice_seconds, rounds, most_calls
        self._stream = torch.cuda.Stream()

    def time_together(self, sides):
        """Name to Timing. Who comes first in a round alternates, so that nobody always finds the other's heat."""
        torch.cuda.synchronize()  # what prepares the calls was queued elsewhere
        pool = torch.cuda.graph_pool_handle()  # it ends with the graphs
        with torch.cuda.stream(self._stream):
            graphs = [self._capture(side, pool) for side in sides]
            order = list(range(len(sides)))
            for round_number in range(self.rounds):
                for index in order if round_number % 2 == 0 else reversed(order):
                    graph, calls, replays = graphs[index]
                    sides[index].samples.append(self._seconds(graph.replay, replays) / (calls * replays))
            self._stream.synchronize()
        return {side.name: Timing(statistics.median(side.samples), min(side.samples), max(side.samples), len(side.samples))
                for side in sides}

    def time_queued(self, sides):
        """Name to Timing of calls that take far longer than to queue, without graphs: PyTorch's gradients come from a thread of its
        own, which capture does not follow."""
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            turns = []
            for side in sides:
                side.calls[0]()
                turns.append(max(2, math.ceil(self.slice_seconds / max(self._seconds(side.calls[0], 1), 1e-6))))
            order = list(range(len(sides)))
            for round_number in range(self.rounds):
                for index in order if round_number % 2 == 0 else reversed(order):
                    sides[index].samples.append(self._seconds(sides[index].calls[0], turns[index]) / turns[index])
            self._stream.synchronize()
        return {side.name: Timing(statistics.median(side.samples), min(side.samples), max(side.samples), len(side.samples))
                for side in sides}

    def stream(self):
        return torch.cuda.stream(self._stream)

    def _capture(self, side, pool):
        """(graph, calls in it, replays of a sample), warmed up."""
        def all_calls():
            for call in side.calls:
                call()

        all_calls()
        once = self._seconds(all_calls, 1) / len(side.calls)
        turns = max(1, math.ceil(min(self.most_calls, self.slice_seconds / max(once, 1e-7)) / len(side.calls)))
        graph = torch.cuda.CUDAGraph()
        # Without torch.cuda.graph(), which collects garbage and empties caches each time.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            for _ in range(turns):
                all_calls()
        finally:
            graph.capture_end()
        graph.replay()
        elapsed = self._seconds(graph.replay, 1)
        return graph, turns * len(side.calls), max(1, math.ceil(self.slice_seconds / max(elapsed, 1e-6)))

    def _seconds(self, function, times):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(self._stream)
        for _ in range(times):
            function()
        end.record(self._stream)
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3


def host_seconds(call, calls=100, rounds=15):
    """Seconds that the caller's thread spends in a call that only queues work: groups too short to fill the queue, median."""
    samples = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - begin) / calls)
    torch.cuda.synchronize()
    return statistics.median(samples[2:])
