# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The kernels that multiply, by the rows of activations that they are for.

    few       dp4a     a block for each tile of 16 rows of weights and each row of q
    some      mma      8 rows of q; the warps of a block share the columns
    several            32 rows of q
    many      wgmma    128 rows of q and 64 of weights
    most      wgmma    128 rows of q and 256 of weights

wgmma is there on sm_90a; elsewhere the same kernels run mma.  All give the exact int32 sums,
whatever the order.  What runs on tensor cores is in product_some.cuh and product_many.cuh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.targets.cuda.code import DeviceKernel, do, make_kernel
from mmc.targets.cuda.ternary import PARAMETERS, Matrix, few

FEW_ROWS = 2

_WARP = 32
_ROW_BYTES = 128
_TILE_BYTES = 512
_COUNTER_BYTES = 16
"""Bytes of a row of q, of a tile of weights, and of the counters of a stage (stage.cuh)."""

_PROCESSORS = 100
"""About as many as a large GPU has."""


@dataclass(frozen=True)
class Product:
    """A kernel, and the tiles of weights and the rows of q that a block of it takes."""

    kernel: DeviceKernel
    tiles: int
    rows: int


@dataclass(frozen=True)
class ByWarps:
    """`multiply_by_warps`: each warp of a block has columns of its own."""

    tiles: int
    rows: int
    warps: int
    stages: int

    def __call__(self, matrix: Matrix, name: str) -> Product:
        stage = self.rows * _ROW_BYTES + self.tiles * _TILE_BYTES
        sizes = self.tiles, self.rows, self.warps, self.stages
        shared = self.warps * self.stages * stage
        made = _call("multiply_by_warps", matrix, name, sizes, self.warps, shared, 1)
        return Product(made, self.tiles, self.rows)


@dataclass(frozen=True)
class ByBlock:
    """`multiply_by_block`: 4 warps of each group have a tile each, 4 more warps copy."""

    groups: int
    rows: int
    stages: int
    resident: int
    registers: int = 0

    def __call__(self, matrix: Matrix, name: str) -> Product:
        copy_warps, tiles = 4, 4 * self.groups
        stage = self.rows * _ROW_BYTES + tiles * _TILE_BYTES
        sizes = self.groups, self.rows, self.stages, copy_warps, self.registers
        shared = self.stages * (stage + _COUNTER_BYTES)
        warps = tiles + copy_warps
        made = _call("multiply_by_block", matrix, name, sizes, warps, shared, self.resident)
        return Product(made, tiles, self.rows)


def _few(matrix: Matrix, name: str) -> Product:
    return Product(few(matrix, name), 1, 1)


def _some(matrix: Matrix, name: str) -> Product:
    """More copies under way where a processor has several blocks one after the other."""
    return ByWarps(1, 8, 8, 6 if matrix.tiles >= 8 * _PROCESSORS else 4)(matrix, name)


def _several(matrix: Matrix, name: str) -> Product:
    """The larger the matrix, the more of its rows share what is read of q."""
    if matrix.tiles >= 8 * _PROCESSORS:
        return ByBlock(2, 32, 8, resident=2)(matrix, name)
    if matrix.tiles >= 4 * _PROCESSORS:
        return ByWarps(3, 32, 4, 4)(matrix, name)
    if matrix.tiles >= 3 * _PROCESSORS:
        return ByWarps(3, 32, 8, 2)(matrix, name)
    return ByWarps(1, 32, 4, 4)(matrix, name)


def _call(
    function: str, matrix: Matrix, name: str, sizes: tuple[int, ...], warps: int, shared: int,
    resident: int,
) -> DeviceKernel:  # fmt: skip
    """A kernel that is one call of a template; every GPU from Ampere on has 99 KiB to share."""
    assert shared <= 99 << 10
    given = ", ".join(map(str, (matrix.n, matrix.vectors, matrix.q_words * 4, *sizes)))

    def body(block: Any, thread: Any, w: Any, q: Any, acc: Any, rows: Any) -> None:
        start = (T.address_of(buffer[0]) for buffer in (w, q, acc))
        do(f"mmc::{function}<{given}>", *start, rows, block)

    return make_kernel(name, PARAMETERS, warps * _WARP, body, shared=shared, resident=resident)


@dataclass(frozen=True)
class Kind:
    """A kernel that multiplies, and for how many rows of q it is used."""

    name: str
    emit: Callable[[Matrix, str], Product]
    most_rows: int | None


KINDS = (
    Kind("few", _few, FEW_ROWS),
    Kind("some", _some, 8),
    Kind("several", _several, 64),
    Kind("many", ByBlock(1, 128, 4, resident=2), 768),
    Kind("most", ByBlock(4, 128, 4, resident=1, registers=112), None),
)
