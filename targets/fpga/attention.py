"""Attention on a board: how its cache lies in memory, and what a token of it takes.

The cache of a layer is [keys, values][group][position][width] in 16 bits; a row is whole words, so
the keys of a group are one linear read, and so are its values.  The RTL has no attention, so what
is said here of cycles and resources is projected from the HLS loops, which take a word a cycle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmc.ir.fixed_point import CACHE_BITS, NARROW, WIDE
from mmc.targets.fpga.boards import Board
from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.plan import Plan
from mmc.targets.fpga.resources import LARGE, Resources, memory

LATENCY = 100
"""Cycles to the first word of a read, as of the weights (`cycles.LATENCY`)."""
STAGES = 40
"""From a word to the score or the sum that it goes into."""
DIVISION = 20
"""Cycles of a head's reciprocal: 16 steps and what leads to them."""
SUM_BITS = 62


@dataclass(frozen=True)
class AttentionUnit:
    """What the HLS project is told of attention: all 0 where a model has none."""

    heads: int
    groups: int
    width: int
    context: int
    layers: int
    word_bits: int
    """Of the cache's port."""

    @staticmethod
    def of(plan: Plan, engine: Engine) -> AttentionUnit:
        a = plan.attention
        if a is None:
            return AttentionUnit(0, 0, 0, 0, 0, CACHE_BITS)
        row = a.width * CACHE_BITS
        bits = min(row & -row, engine.word_bits)
        return AttentionUnit(a.heads, a.groups, a.width, a.context, len(plan.caches), bits)

    @property
    def each(self) -> int:
        """Heads that share a group: a word of the cache is used for all of them at once."""
        return self.heads // self.groups if self.groups else 0

    @property
    def numbers(self) -> int:
        """Of a word."""
        return self.word_bits // CACHE_BITS

    @property
    def words(self) -> int:
        """Of the whole cache."""
        return 2 * self.layers * self.groups * self.context * self.width // self.numbers

    @property
    def bytes(self) -> int:
        """Of the whole cache; what a token reads of it where it is full."""
        return self.words * self.word_bits // 8

    def cycles(self, known: int, board: Board) -> int:
        """Cycles of a token that is position `known` - 1; the cache has a port of its own."""
        if not self.layers:
            return 0
        port = board.bytes_per_second(1) / (board.clock_mhz * 1e6)
        row = math.ceil(self.width // self.numbers * max(1.0, self.word_bits / 8 / port))
        group = 2 * (LATENCY + STAGES + known * row) + self.each * (DIVISION + self.width)
        entry = 2 * self.groups * row
        turned = (self.heads + self.groups) * self.width // 2
        return self.layers * (self.groups * group + entry + turned)

    def bytes_of(self, known: int) -> int:
        """Bytes that such a token reads."""
        return self.bytes * known // self.context if self.context else 0

    def resources(self, board: Board) -> Resources:
        """Multipliers and memories; look-up tables and registers are not counted."""
        if not self.layers:
            return Resources()
        lanes = self.each * self.numbers
        total = Resources(dsp=2 * lanes + 6 * self.each + 4)
        for width, depth in (
            (self.each * WIDE, self.context), (lanes * SUM_BITS, self.width // self.numbers),
            (self.numbers * NARROW, 2 * self.heads * self.width // self.numbers),
        ):  # fmt: skip
            total += memory(width, depth, uram=board.uram > 0 and depth > LARGE)
        return total
