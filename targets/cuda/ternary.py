# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Packed ternary matrices on a GPU, and how a warp multiplies a part of one with a row.

The weights lie in memory as `mmc.ir.packing` draws them: a vector of 64 bytes holds 16 rows by 16
columns at 2 bits, by 20 at 1.6 bits.  A row's 4 bytes of a vector meet 4 or 5 words of
activations.  digits.cuh says how digits are read, and what each lane of a warp has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Value
from mmc.ir.packing import BLOCKS, TILE_ROWS, Layout, tile_vectors
from mmc.ir.types import static_shape
from mmc.targets.cuda.code import do
from mmc.targets.layout import int8_row_bytes

PARAMETERS = {"in_1": "uint32*", "in_0": "int32*", "out_0": "int32*", "size_rows": "int64"}
"""Weights, q, sums and the rows of q: the same for all kernels that multiply."""

STEP_VECTORS = 8
"""Vectors of a tile that a warp multiplies at once."""


@dataclass(frozen=True)
class Matrix:
    """The sizes of a packed matrix; a vector is 16 words of 4 bytes."""

    n: int
    k: int
    layout: Layout

    @staticmethod
    def of(weight: Value) -> Matrix:
        """The matrix of a packed weight."""
        n, k = static_shape(weight.type.shape)
        layout = weight.type.dtype.layout
        assert layout is not None
        return Matrix(n, k, layout)

    def __str__(self) -> str:
        return f"{self.n} x {self.k} {self.layout}"

    @property
    def tiles(self) -> int:
        return -(-self.n // TILE_ROWS)

    @property
    def words(self) -> int:
        """Words of activations that a vector meets."""
        return BLOCKS[self.layout].words

    @property
    def step_bytes(self) -> int:
        """Activations that a warp multiplies at once."""
        return STEP_VECTORS * 4 * self.words

    @property
    def vectors(self) -> int:
        return tile_vectors(self.k, self.layout)

    @property
    def q_words(self) -> int:
        return int8_row_bytes(self.k) // 4


class WarpSums:
    """What a lane of a warp adds up: a row of activations times a tile of 16 rows of weights."""

    def __init__(self, matrix: Matrix, lane: Any) -> None:
        self.words, self.vectors, self.lane = matrix.words, matrix.vectors, lane
        count = {4: 17, 5: 13}[matrix.words]  # WarpSums in digits.cuh
        self._sums = T.alloc_buffer((count,), "int32", scope="local")
        for i in range(count):
            T.buffer_store(self._sums, T.int32(0), [i])

    def load(self, packed: Any, tile: Any, first: Any, *, past: bool) -> None:
        """Read 4 words, the lane's of the 8 vectors of a tile from `first` on.

        past: whether there may be fewer; the last vector is read in place of others then, to be
        multiplied with zeros.
        """
        vectors = self.vectors if past else 0
        do(f"mmc_load_once<{self.words}, {vectors}>", packed, tile, first, self.lane)

    def add(self, packed: Any, activations: Any) -> None:
        """Multiply them with the activations of these vectors, which begin at an address."""
        do(f"mmc_add<{self.words}>", T.address_of(self._sums[0]), packed, activations, self.lane)

    def store(self, parts: Any) -> None:
        """Write the sums of the 16 rows."""
        do(f"mmc_store<{self.words}>", parts, T.address_of(self._sums[0]), self.lane)
