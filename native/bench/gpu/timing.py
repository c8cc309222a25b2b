#
# Licensed under the Apache License, Version 2.0. See the LICENSE file of this project.
#
"""Times candidates in turn with CUDA events around replays of CUDA graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

COLD_BYTES = 130e6  # more than twice the L2 of an H200
COLD_TOKENS = 128  # up to here weights are read from memory, not from L2
GRAPH_MICROS = 200.0
MOST_CALLS = 64


@dataclasses.dataclass
class Candidate:
    """Something to time. call(i) runs with the i-th copy of the weight, i < copies."""

    name: str
    call: Callable[[int], object]
    copies: int = 1
    capturable: bool = True


@dataclasses.dataclass
class Timing:
    micros: list[float]  # one call: the 10th percentile, the median, the 90th percentile
    calls: int  # in a graph; 0 for calls from the host, with the host's time where it is longer

    @property
    def median(self) -> float:
        return self.micros[1]


class Clock:
    """Owns the stream of the graphs and the memory that all of them share."""

    def __init__(self, seconds_a_group: float, least_rounds: int = 5, most_rounds: int = 25):
        self._millis = 1000 * seconds_a_group
        self._rounds = (least_rounds, most_rounds)
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()
        # The pool lives as long as one of its graphs.
        self._first = self._capture(lambda: torch.zeros(1, device="cuda"))

    def time(self, candidates: list[Candidate]) -> dict[str, Timing]:
        works, calls = [], []
        for candidate in candidates:
            work, count = self._prepare(candidate)
            works.append(work)
            calls.append(count)
        torch.cuda.synchronize()
        once = self._round(works)
        least, most = self._rounds
        rounds = int(np.clip(self._millis / max(1e-3, once.sum()), least, most))
        millis = np.array([self._round(works, turn) for turn in range(rounds)])
        result = {}
        for i, candidate in enumerate(candidates):
            micros = np.percentile(millis[:, i] * 1000 / max(1, calls[i]), (10, 50, 90))
            result[candidate.name] = Timing([float(f"{m:.5g}") for m in micros], calls[i])
        return result

    def _prepare(self, candidate: Candidate) -> tuple[Callable[[], object], int]:
        if not candidate.capturable:
            for _ in range(2):
                candidate.call(0)
            return lambda: candidate.call(0), 0
        micros = self._estimate(candidate.call)
        graph, count = self._graph_of(candidate, micros)
        graph.replay()
        micros = 1000 * self._round([graph.replay])[0] / count
        if micros * count < GRAPH_MICROS / 4 and count < MOST_CALLS:  # the host was slower
            graph, count = self._graph_of(candidate, micros)
        return graph.replay, count

    def _graph_of(self, candidate: Candidate, micros: float) -> tuple[torch.cuda.CUDAGraph, int]:
        """A graph of so many calls that the launch of the graph does not count."""
        count = int(np.clip(GRAPH_MICROS / micros, 1, MOST_CALLS))

        def calls() -> None:
            for i in range(count):
                candidate.call(i % candidate.copies)

        return self._capture(calls), count

    def _estimate(self, call: Callable[[int], object]) -> float:
        """Microseconds of a call, at most a few times too many; the first calls warm it up."""
        call(0)
        call(0)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(50_000)
        start.record()
        call(0)
        call(0)
        end.record()
        end.synchronize()
        return max(1.0, 500 * start.elapsed_time(end))

    def _capture(self, work: Callable[[], object]) -> torch.cuda.CUDAGraph:
        # torch.cuda.graph() also collects garbage and empties caches: 100 ms a graph.
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool)
            try:
                work()
            finally:
                graph.capture_end()
        return graph

    @staticmethod
    def _round(works: list[Callable[[], object]], turn: int = 0) -> np.ndarray:
        """Milliseconds of each; another one begins each turn."""
        torch.cuda._sleep(500_000)  # the host runs ahead: no launch gaps in the times
        order = np.roll(np.arange(len(works)), -turn)
        events = {}
        for i in order:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            works[i]()
            end.record()
            events[i] = start, end
        torch.cuda.synchronize()
        return np.array([events[i][0].elapsed_time(events[i][1]) for i in range(len(works))])


def copies_for(weight_bytes: int, tokens: int) -> int:
    """So many copies of a weight, used in turn, keep each of them out of L2: a graph comes back to a
    copy after COLD_BYTES or not at all, and the other candidates' graphs run between two replays."""
    if tokens > COLD_TOKENS:
        return 1
    return int(np.clip(np.ceil(COLD_BYTES / max(1, weight_bytes)), 2, MOST_CALLS))


def warm_up(seconds: float) -> None:
    """Brings the clocks up."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    while True:
        for _ in range(20):
            a @ a
        end.record()
        end.synchronize()
        if start.elapsed_time(end) > 1000 * seconds:
            return
