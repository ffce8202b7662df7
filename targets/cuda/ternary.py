# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The ternary matmul on a GPU: three kernels for few, some and many rows of activations.

The weights lie in memory as `mmc.ir.packing` draws "2bit": a vector of 64 bytes holds 16 rows by 16
columns.  A row's 4 bytes j hold the digits of columns 4 w + j at bits 2 w: masked with 3 << 2 w
they meet the activations 4 w to 4 w + 3, which are one word.

    few    dp4a      a block for each tile of 16 rows and each row of q; digits stay in place
    some   mma       a block for each tile and 32 rows of q; 8 warps share the columns
    many   mma       a block for 4 tiles and 64 rows of q, which it keeps in shared memory

All give the exact int32 sums, whatever the order.  dp4a takes digits 0, 1, 2 and subtracts the sum
of the activations; mma takes signed digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import TILE_ROWS, tile_vectors
from mmc.targets.cuda.code import DeviceKernel, call, do, make_kernel
from mmc.targets.layout import int8_row_bytes
from mmc.targets.tvm.elementary import hold

FEW_ROWS = 2
SOME_ROWS = 64
SOME_GROUP = 32
MANY_ROWS = 64
MANY_TILES = 4

_PARAMETERS = {"in_1": "uint32*", "in_0": "int32*", "out_0": "int32*", "size_rows": "int64"}
_WARP = 32


@dataclass(frozen=True)
class Matrix:
    """The sizes of a packed matrix; a vector is 16 words of 4 bytes."""

    n: int
    k: int

    @property
    def tiles(self) -> int:
        return -(-self.n // TILE_ROWS)

    @property
    def vectors(self) -> int:
        return tile_vectors(self.k, "2bit")

    @property
    def q_words(self) -> int:
        return int8_row_bytes(self.k) // 4


def _local(count: int, dtype: str) -> Any:
    return T.alloc_buffer((count,), dtype, scope="local")


def zeros(count: int) -> Any:
    buffer = _local(count, "int32")
    for i in range(count):
        T.buffer_store(buffer, T.int32(0), [i])
    return buffer


def _wide(x: Any) -> Any:
    return T.cast(x, "int64")


SUMS = 17
"""What a thread adds up with dp4a: 4 rows by 4 positions of a digit in a byte, and activations."""


def multiply_in_place(packed: Any, first: int, activations: Any, sums: Any) -> None:
    """Multiply 4 rows x 16 columns, the words of `packed` from `first` on, digits as they stand."""
    for i in range(4):
        for word in range(4):
            digits = packed[first + i] & T.uint32(0x03030303 << 2 * word)
            at = i * 4 + word
            total = call("mmc_dot4", "int32", digits, activations[word], sums[at])
            T.buffer_store(sums, total, [at])
    for word in range(4):
        total = call("__dp4a", "int32", T.int32(0x01010101), activations[word], sums[16])
        T.buffer_store(sums, total, [16])


def store_part(sums: Any, parts: Any, start: Any, lane: Any) -> None:
    """Add up over the lanes of a warp, and write the sums of 16 rows."""
    totals = []
    for i in range(4):
        total = sums[i * 4] - sums[16]
        for word in range(1, 4):
            total = total + T.shift_right(sums[i * 4 + word], T.int32(2 * word))
        totals.append(total)
    total = hold(call("mmc_sum_of_four", "int32", *totals))  # by all lanes
    with T.If(lane < 16), T.Then():
        at = start + lane % 4 * 4 + call("mmc_summed", "int32")
        T.buffer_store(parts, total, [at])


def few(matrix: Matrix, name: str) -> DeviceKernel:
    """Blocks: tiles x rows.  Bound: reading the weights."""
    steps = -(-matrix.vectors // 8)
    warps = min(8, steps)

    def body(block: Any, thread: Any, w: Any, q: Any, acc: Any, rows: Any) -> None:
        lane, warp = thread % _WARP, thread // _WARP
        tile = T.Bind(_wide(block % matrix.tiles))
        row = T.Bind(_wide(T.truncdiv(block, matrix.tiles)))
        packed, activations = _local(4, "uint32"), _local(4, "int32")
        sums = zeros(SUMS)
        for step in range(-(-steps // warps)):
            vector = T.Bind((step * warps + warp) * 8 + lane // 4)

            def multiply(vector: Any = vector) -> None:
                start = (tile * matrix.vectors + _wide(vector)) * 16 + _wide(lane % 4 * 4)
                do("mmc_stream16", T.address_of(packed[0]), T.address_of(w[start]))
                q_start = row * matrix.q_words + _wide(vector) * 4
                do("mmc_load16", T.address_of(activations[0]), T.address_of(q[q_start]))
                multiply_in_place(packed, 0, activations, sums)

            if (step + 1) * warps * 8 <= matrix.vectors:
                multiply()
            else:
                with T.If(vector < matrix.vectors), T.Then():
                    multiply()
        parts = T.alloc_buffer((warps * TILE_ROWS,), "int32", scope="shared")
        store_part(sums, parts, warp * TILE_ROWS, lane)
        T.evaluate(T.cuda.cta_sync())
        column = T.Bind(tile * TILE_ROWS + _wide(thread))
        with T.If(T.And(thread < TILE_ROWS, column < matrix.n)), T.Then():
            total = parts[thread]
            for other in range(1, warps):
                total = total + parts[other * TILE_ROWS + thread]
            T.buffer_store(acc, total, [row * matrix.n + column])

    return make_kernel(name, _PARAMETERS, warps * _WARP, body)


def _load_tile(matrix: Matrix, w: Any, tile: Any, step: Any, lane: Any, packed: Any) -> None:
    """Load 2 rows x 2 vectors of 8: rows lane / 4 and + 8, vectors lane % 4 and + 4."""
    for half in range(2):
        vector = T.min(step * 8 + half * 4 + lane % 4, matrix.vectors - 1)
        for upper in range(2):
            at = (tile * matrix.vectors + _wide(vector)) * 16 + _wide(lane // 4 + upper * 8)
            T.buffer_store(packed, w[at], [half * 2 + upper])


def _multiply(packed: Any, activations: Any, sums: Any, groups: int) -> None:
    """Multiply 16 rows x 128 columns with groups of 8 rows of q.

    activations: for each group 8 words, those of vector lane % 4, then of the vector 4 further.
    """
    digits = _local(4, "uint32")
    for word in range(4):
        for i in range(4):
            moved = T.shift_right(packed[i], T.uint32(2 * word)) & T.uint32(0x03030303)
            T.buffer_store(digits, call("mmc_signed_digits", "uint32", moved), [i])
        for group in range(groups):
            first = group * 8 + word
            do(
                "mmc_mma_s8", T.address_of(sums[group * 4]), *(digits[i] for i in range(4)),
                activations[first], activations[first + 4],
            )  # fmt: skip


def some(matrix: Matrix, name: str) -> DeviceKernel:
    """Blocks: tiles x groups of 32 rows of q.  Bound: reading the weights, once for each group."""
    steps = -(-matrix.vectors // 8)
    warps = min(8, steps)
    groups = SOME_GROUP // 8

    def body(block: Any, thread: Any, w: Any, q: Any, acc: Any, rows: Any) -> None:
        lane, warp = thread % _WARP, thread // _WARP
        tile = T.Bind(_wide(block % matrix.tiles))
        first = T.Bind(_wide(T.truncdiv(block, matrix.tiles)) * SOME_GROUP)
        packed, activations = _local(4, "uint32"), _local(groups * 8, "int32")
        sums = zeros(groups * 4)
        with T.serial(0, -(-steps // warps)) as turn:
            step = T.Bind(turn * warps + warp)
            with T.If(step < steps), T.Then():
                _load_tile(matrix, w, tile, step, lane, packed)
                for group in range(groups):
                    row = T.Bind(first + _wide(group * 8 + lane // 4))
                    for half in range(2):
                        word = T.Bind((step * 8 + half * 4 + lane % 4) * 4)
                        _load_q(matrix, q, row, rows, word, activations, group * 8 + half * 4)
                _multiply(packed, activations, sums, groups)
        parts = T.alloc_buffer((TILE_ROWS * SOME_GROUP,), "int32", scope="shared")
        with T.serial(0, -(-TILE_ROWS * SOME_GROUP // (warps * _WARP))) as turn:
            at = T.Bind(turn * (warps * _WARP) + thread)
            with T.If(at < TILE_ROWS * SOME_GROUP), T.Then():
                T.buffer_store(parts, T.int32(0), [at])
        T.evaluate(T.cuda.cta_sync())
        for group in range(groups):
            for i in range(4):
                row, column = _sum_position(group, i, lane)
                at = T.address_of(parts[row * TILE_ROWS + column])
                T.evaluate(call("atomicAdd", "int32", at, sums[group * 4 + i]))
        T.evaluate(T.cuda.cta_sync())
        with T.serial(0, -(-TILE_ROWS * SOME_GROUP // (warps * _WARP))) as turn:
            at = T.Bind(turn * (warps * _WARP) + thread)
            row = T.Bind(first + _wide(T.truncdiv(at, TILE_ROWS)))
            column = T.Bind(tile * TILE_ROWS + _wide(at % TILE_ROWS))
            inside = T.And(T.And(at < TILE_ROWS * SOME_GROUP, row < rows), column < matrix.n)
            with T.If(inside), T.Then():
                T.buffer_store(acc, parts[at], [row * matrix.n + column])

    return make_kernel(name, _PARAMETERS, warps * _WARP, body)


def _load_q(matrix: Matrix, q: Any, row: Any, rows: Any, word: Any, to: Any, at: int) -> None:
    """Load 4 words of a row; zeros past the last row and past its end."""
    inside = T.And(row < rows, word < matrix.q_words)
    with T.If(inside):
        with T.Then():
            start = row * matrix.q_words + _wide(word)
            do("mmc_load16", T.address_of(to[at]), T.address_of(q[start]))
        with T.Else():
            for i in range(4):
                T.buffer_store(to, T.int32(0), [at + i])


def _sum_position(group: int, i: int, lane: Any) -> tuple[Any, Any]:
    """The row of q and the row of the tile of sum `i` of a lane, as mma gives them."""
    return group * 8 + lane % 4 * 2 + i % 2, lane // 4 + i // 2 * 8


def many(matrix: Matrix, name: str) -> DeviceKernel:
    """Blocks: groups of 4 tiles x groups of 64 rows of q.  Bound: the tensor cores.

    128 columns of 64 rows of q stand in shared memory, rows 192 bytes apart: then the 16 bytes that
    8 lanes read at a time lie in different banks.
    """
    steps = -(-matrix.vectors // 8)
    groups = MANY_ROWS // 8
    stride = 48
    threads = MANY_TILES * _WARP
    blocks = -(-matrix.tiles // MANY_TILES)

    def body(block: Any, thread: Any, w: Any, q: Any, acc: Any, rows: Any) -> None:
        lane, warp = thread % _WARP, thread // _WARP
        wanted = T.Bind(_wide(block % blocks) * MANY_TILES + _wide(warp))
        tile = T.Bind(T.min(wanted, T.int64(matrix.tiles - 1)))
        first = T.Bind(_wide(T.truncdiv(block, blocks)) * MANY_ROWS)
        packed, activations = _local(4, "uint32"), _local(8, "int32")
        sums = zeros(groups * 4)
        panel = T.alloc_buffer((MANY_ROWS * stride,), "int32", scope="shared")
        loaded = _local(4, "int32")
        with T.serial(0, steps) as step:
            T.evaluate(T.cuda.cta_sync())
            for turn in range(MANY_ROWS * 8 // threads):
                piece = turn * threads + thread
                row, part = T.truncdiv(piece, 8), piece % 8
                word = T.Bind(step * 32 + part * 4)
                _load_q(matrix, q, first + _wide(row), rows, word, loaded, 0)
                to = T.address_of(panel[row * stride + part * 4])
                do("mmc_load16", to, T.address_of(loaded[0]))
            _load_tile(matrix, w, tile, step, lane, packed)
            T.evaluate(T.cuda.cta_sync())
            for group in range(groups):
                for half in range(2):
                    at = (group * 8 + lane // 4) * stride + (half * 4 + lane % 4) * 4
                    do("mmc_load16", T.address_of(activations[half * 4]), T.address_of(panel[at]))
                _multiply_group(packed, activations, sums, group)
        for group in range(groups):
            for i in range(4):
                row, column = _sum_position(group, i, lane)
                at_row = T.Bind(first + _wide(row))
                at_column = T.Bind(wanted * TILE_ROWS + _wide(column))
                with T.If(T.And(at_row < rows, at_column < matrix.n)), T.Then():
                    T.buffer_store(acc, sums[group * 4 + i], [at_row * matrix.n + at_column])

    return make_kernel(name, _PARAMETERS, threads, body)


def _multiply_group(packed: Any, activations: Any, sums: Any, group: int) -> None:
    """One group of 8 rows; the digits are the same for all, and made once by the compiler."""
    for word in range(4):
        digits = [
            call(
                "mmc_signed_digits", "uint32",
                T.shift_right(packed[i], T.uint32(2 * word)) & T.uint32(0x03030303),
            )
            for i in range(4)
        ]  # fmt: skip
        do(
            "mmc_mma_s8", T.address_of(sums[group * 4]), *digits,
            activations[word], activations[word + 4],
        )  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kernel, the rows of q and tiles of weights that a block takes, and when it is used."""

    name: str
    emit: Callable[[Matrix, str], DeviceKernel]
    tiles: int
    rows: int
    most_rows: int | None


KINDS = (
    Kind("few", few, 1, 1, FEW_ROWS),
    Kind("some", some, 1, SOME_GROUP, SOME_ROWS),
    Kind("many", many, MANY_TILES, MANY_ROWS, None),
)
