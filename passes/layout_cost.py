"""Which packed layout makes a ternary matrix fastest to multiply with one row: a cost model.

A step of decoding reads each matrix once.  Its time is that of the slower of two things that go on
side by side, and a part of the faster one, which is never hidden whole:

    reading    bytes / bandwidth: of memory, or of a cache where all matrices fit in one
    computing  weights / rate of the kernel on weights that are at hand

The rates are those of the AVX-512 kernels of the CPU target on one processor (Zen 4, 2026-11-22;
`python -m benchmarks.cpu --only gemv,rows,models`); only their ratios matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmc.ir.packing import Layout, packed_bytes

MEMORY_RATE = 22e9
"""Bytes a second that a thread reads from memory in a whole model: 17 to 32 were seen."""

CACHE_RATE = 60e9
"""Bytes a second from a shared cache."""

CACHE_BYTES = 16 << 20
"""Models of fewer bytes stay in a cache from one step to the next."""

COMPUTE_RATE: dict[Layout, float] = {"2bit": 136e9, "1.67bit": 121e9, "1.6bit": 109e9}
"""Weights a second on weights in the second-level cache, one thread."""

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


def costs(n: int, k: int, whole: int) -> list[Cost]:
    """The layouts of a matrix of n x k, best first; `whole`: bytes of all matrices."""
    rate = CACHE_RATE if whole <= CACHE_BYTES else MEMORY_RATE
    found: list[Cost] = []
    for layout, compute_rate in COMPUTE_RATE.items():
        size = packed_bytes(n, k, layout)
        times = size / rate, n * k / compute_rate
        found.append(Cost(layout, size, max(times) + _NOT_HIDDEN * min(times)))
    return sorted(found, key=lambda cost: cost.seconds)


def whole_bytes(shapes: Sequence[tuple[int, int]]) -> int:
    """Bytes of all matrices in the layout that takes most."""
    return sum(packed_bytes(n, k, "2bit") for n, k in shapes)
