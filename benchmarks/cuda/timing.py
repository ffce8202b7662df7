"""Seconds on a GPU: programs in turn, round after round, each long enough for the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

LONG_ENOUGH = 0.03
"""Seconds that a program runs in a round, again and again."""

Run = Callable[[], object]
"""Puts one repetition on the device; it may return before that is done."""


def seconds(run: Run, times: int) -> float:
    """Of one repetition, by the clock on the wall."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def in_turn(programs: Mapping[str, Run], rounds: int) -> dict[str, float]:
    """Seconds of each, the median of the rounds; what is made first is not timed."""
    times: dict[str, int] = {}
    for name, run in programs.items():
        for _ in range(3):
            run()
        times[name] = max(1, int(LONG_ENOUGH / seconds(run, 2)))
    found: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            found[name].append(seconds(run, times[name]))
    return {name: statistics.median(each) for name, each in found.items()}


def graphed(run: Run) -> Run:
    """The same, recorded as a CUDA graph: `run` must always use the same memory."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay(_kept: Run = run) -> None:
        graph.replay()  # reads tensors that `run` holds

    return replay
