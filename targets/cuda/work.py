"""How the warps of a block share the tiles of ternary matrices that one row is multiplied with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmc.ir.packing import TILE_ROWS
from mmc.targets.cuda.block import SHARES
from mmc.targets.cuda.ternary import STEP_VECTORS, Matrix

BLOCKS = 132
"""Blocks that are aimed at: one for each processor of a large GPU."""

THREADS = SHARES
WARPS = THREADS // 32


@dataclass(frozen=True)
class Consumer:
    """A matrix, and which output of the row it is multiplied with."""

    output: int
    matrix: Matrix


@dataclass(frozen=True)
class Work:
    """What a block does: the outputs that it multiplies, and how its warps share its tiles.

    split: the warps of a tile.  rounds: how often all warps take tiles.  length: bytes of
    activations that the warps read, those past the end included.
    """

    outputs: tuple[int, ...]
    split: int
    rounds: int
    length: int

    @staticmethod
    def of(consumers: Sequence[Consumer], tiles: int, most_at_once: int = WARPS) -> Work:
        matrix = consumers[0].matrix
        split = _split(matrix, tiles, most_at_once)
        length = -(-matrix.vectors // (STEP_VECTORS * split)) * split * matrix.step_bytes
        outputs = tuple(dict.fromkeys(c.output for c in consumers))
        return Work(outputs, split, -(-tiles * split // WARPS), length)

    @property
    def at_once(self) -> int:
        """Tiles of a round."""
        return WARPS // self.split

    @property
    def parts(self) -> int:
        """Sums that warps leave behind."""
        return self.rounds * WARPS * TILE_ROWS

    @property
    def shared_bytes(self) -> int:
        return len(self.outputs) * self.length + 4 * self.parts


def _split(matrix: Matrix, tiles: int, most_at_once: int) -> int:
    """How many warps share a tile, so that a warp has the fewest instructions.

    most_at_once: tiles of a round, unless all warps share one.
    """
    each, more = {"2bit": (37, 30), "1.6bit": (54, 60)}[matrix.layout]  # of 8 vectors, of a tile

    def instructions(split: int) -> int:
        steps = -(-matrix.vectors // (STEP_VECTORS * split))
        return -(-tiles * split // WARPS) * (steps * each + more)

    splits = [1 << i for i in range(WARPS.bit_length())]
    return min((s for s in splits if WARPS // s <= max(1, most_at_once)), key=instructions)
