"""Which packed layout makes a ternary matrix fastest to multiply with one row: a cost model.

A step of decoding reads each matrix once.  Its time is that of the slower of two things that go on
side by side, and a part of the faster one, which is never hidden whole:

    reading    bytes / bandwidth: of memory, or of a cache where all matrices fit in one
    computing  weights / rate of the kernel on weights that are at hand

The rates of "cpu" are those of the AVX-512 kernels on one processor (Zen 4, 2026-11-22;
`python -m benchmarks.cpu --only gemv,rows,models`), those of "gpu" are fitted to an H100
(2026-11-22; `python -m benchmarks.cuda --only gemv`); only their ratios matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmc.ir.packing import Layout, packed_bytes


@dataclass(frozen=True)
class Machine:
    """What multiplies, in bytes, weights and seconds.

    memory_rate, cache_rate: bytes a second.  cache_bytes: models of fewer bytes stay in a cache
    from one step to the next.  compute_rate: weights a second that are at hand.  start: seconds
    that a product takes besides.  alike: whether all matrices get the layout that is best for all
    together: rows that are multiplied in one launch must.
    """

    memory_rate: float
    cache_rate: float
    cache_bytes: int
    compute_rate: Mapping[Layout, float]
    start: Mapping[Layout, float]
    alike: bool


MACHINES: dict[str, Machine] = {
    "cpu": Machine(
        memory_rate=22e9,  # a thread in a whole model: 17 to 32 were seen
        cache_rate=60e9,
        cache_bytes=16 << 20,
        compute_rate={"2bit": 136e9, "1.67bit": 121e9, "1.6bit": 109e9},
        start={"2bit": 0.0, "1.67bit": 0.0, "1.6bit": 0.0},
        alike=False,
    ),
    "gpu": Machine(
        memory_rate=3.09e12,
        cache_rate=5.4e12,
        cache_bytes=24 << 20,
        compute_rate={"2bit": 40e12, "1.6bit": 13e12},
        start={"2bit": 0.7e-6, "1.6bit": 1.3e-6},
        alike=True,
    ),
}

_NOT_HIDDEN = 0.1
"""Part of the shorter of the two times that adds to the longer."""


@dataclass(frozen=True)
class Cost:
    """Seconds that a matrix takes in a layout."""

    layout: Layout
    size: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.layout} {self.seconds * 1e6:.1f}"


def costs(n: int, k: int, whole: int, machine: Machine) -> list[Cost]:
    """The layouts of a matrix of n x k, best first; `whole`: bytes of all matrices."""
    rate = machine.cache_rate if whole <= machine.cache_bytes else machine.memory_rate
    found: list[Cost] = []
    for layout, compute_rate in machine.compute_rate.items():
        size = packed_bytes(n, k, layout)
        times = size / rate, n * k / compute_rate
        seconds = machine.start[layout] + max(times) + _NOT_HIDDEN * min(times)
        found.append(Cost(layout, size, seconds))
    return sorted(found, key=lambda cost: cost.seconds)


def best_for_all(shapes: Sequence[tuple[int, int]], machine: Machine) -> Layout:
    """The layout that is best for all matrices together."""
    whole, seconds = whole_bytes(shapes), dict.fromkeys(machine.compute_rate, 0.0)
    for n, k in shapes:
        for cost in costs(n, k, whole, machine):
            seconds[cost.layout] += cost.seconds
    return min(seconds, key=seconds.__getitem__)


def whole_bytes(shapes: Sequence[tuple[int, int]]) -> int:
    """Bytes of all matrices in the layout that takes most."""
    return sum(packed_bytes(n, k, "2bit") for n, k in shapes)
