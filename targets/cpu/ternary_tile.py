# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""A packed ternary matrix as kernels see it: its sizes, its digits, and its tiles of 16 sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import TILE_ROWS, Layout, Run, runs, tile_vectors
from mmc.targets.cpu.share import share
from mmc.targets.layout import int8_row_bytes

SUMMED_ROWS = 480
"""Rows of q between two unpackings of the same weights: few enough for the second-level cache."""

Vector: TypeAlias = Any
"""A TIR expression of a vector type."""


@dataclass(frozen=True)
class Matrix:
    """The sizes of a packed matrix."""

    n: int
    k: int
    layout: Layout

    @property
    def runs(self) -> tuple[Run, ...]:
        return runs(self.k, self.layout)

    @property
    def tile_vectors(self) -> int:
        return tile_vectors(self.k, self.layout)

    @property
    def tiles(self) -> int:
        return -(-self.n // TILE_ROWS)

    @property
    def words(self) -> int:
        return sum(run.words for run in self.runs)

    @property
    def q_words(self) -> int:
        return int8_row_bytes(self.k) // 4


def splat(value: Any, lanes: int, dtype: str) -> Vector:
    return T.broadcast(T.cast(value, dtype), lanes)


def zero_registers(count: int, lanes: int = 16, dtype: str = "int32") -> list[Any]:
    """Make vector variables that hold 0; one buffer each, which LLVM keeps in registers."""
    registers = [T.alloc_buffer((1,), f"{dtype}x{lanes}") for _ in range(count)]
    for register in registers:
        put(register, splat(0, lanes, dtype))
    return registers


def put(register: Any, value: Vector) -> None:
    T.buffer_store(register, value, [0])


def add_bytes(total: Vector, words: Vector) -> Vector:
    """16 sums with the four int8 of 16 words added."""
    for byte in range(4):
        left = T.shift_left(words, splat(24 - 8 * byte, 16, "int32"))
        total = total + T.shift_right(left, splat(24, 16, "int32"))
    return total


def row_sums(
    matrix: Matrix, q: Any, first: Any, count: Any, most: int = SUMMED_ROWS,
    add: Callable[[Vector, Vector], Vector] = add_bytes,
) -> Any:  # fmt: skip
    """Sum the int8 values of `count` rows of q, `most` or fewer, from row `first` on."""
    sums = T.alloc_buffer((most,), "int32")
    lanes = T.alloc_buffer((16,), "int32")
    with T.serial(0, count) as row:
        T.buffer_store(lanes, splat(0, 16, "int32"), [T.ramp(0, 1, 16)])
        with T.serial(0, matrix.q_words // 16) as step:
            words = q.vload([(first + row) * matrix.q_words + step * 16], "int32x16")
            T.buffer_store(lanes, add(lanes[T.ramp(0, 1, 16)], words), [T.ramp(0, 1, 16)])
        T.buffer_store(sums, sum((lanes[i] for i in range(1, 16)), lanes[0]), [row])
    return sums


def store_tile(matrix: Matrix, acc: Any, row: Any, tile: Any, value: Vector) -> None:
    """Write the 16 sums of a tile; of the last tile, what lies within the row; none past it."""
    full, rest = divmod(matrix.n, TILE_ROWS)
    start = row * matrix.n + tile * TILE_ROWS
    with T.If(tile < full), T.Then():
        T.buffer_store(acc, value, [T.ramp(start, 1, 16)])
    if rest:
        with T.If(tile == full), T.Then():
            lanes = T.alloc_buffer((16,), "int32")
            T.buffer_store(lanes, value, [T.ramp(0, 1, 16)])
            with T.serial(0, rest) as lane:
                T.buffer_store(acc, lanes[lane], [start + lane])


def multiply_in_parts(
    matrix: Matrix, q: Any, acc: Any, rows: Any, add_products: Callable[[Any, Any, Any, Any], None]
) -> None:
    """Many rows, `SUMMED_ROWS` at a time: threads share the tiles, each unpacked once a part.

    `add_products(totals, tile, first, count)` adds the products of the tile's digits with `count`
    rows of q, from row `first` on, to `totals` [count][16], which begin at minus the rows' sums.
    """
    with T.serial(0, T.ceildiv(rows, SUMMED_ROWS)) as part:
        first = T.Bind(part * SUMMED_ROWS)
        count = T.Bind(T.min(rows - first, T.int64(SUMMED_ROWS)))
        sums = row_sums(matrix, q, first, count)

        def multiply_tile(tile: Any) -> None:
            totals = T.alloc_buffer((SUMMED_ROWS * 16,), "int32")
            with T.serial(0, count) as row:
                T.buffer_store(totals, splat(-sums[row], 16, "int32"), [T.ramp(row * 16, 1, 16)])
            add_products(totals, tile, first, count)
            with T.serial(0, count) as row:
                total = T.Bind(totals.vload([row * 16], "int32x16"))
                store_tile(matrix, acc, first + row, tile, total)

        share(matrix.tiles, multiply_tile)
