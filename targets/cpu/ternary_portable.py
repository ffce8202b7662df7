# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The ternary matmul on any CPU: plain vector arithmetic that LLVM splits as needed."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import BLOCK_BYTES
from mmc.targets.cpu.ternary_tile import (
    SUMMED_ROWS,
    Matrix,
    Vector,
    put,
    row_sums,
    splat,
    store_tile,
    zero_registers,
)

_CHUNK_WORDS = 60
"""Words whose products fit in an int16 sum: 60 words * 2 products * 2 * 128 = 30720."""

_PORTABLE_ROWS = 2


def write(matrix: Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    """Unpack a tile, 60 words at a time, into 16 bit digits, and multiply 16 bit by 16 bit.

        panel [60 words][2][32 int16]    columns 0 and 2 of the word: row 0, row 0, row 1, ...
                                         columns 1 and 3 of the word: row 0, row 0, row 1, ...

    Bound: per word and row of q, four operations on 32 int16 lanes, and the unpacking.
    """
    with T.serial(0, T.ceildiv(rows, SUMMED_ROWS)) as part:
        first = T.Bind(part * SUMMED_ROWS)
        count = T.Bind(T.min(rows - first, T.int64(SUMMED_ROWS)))
        sums = row_sums(matrix, q, first, count)
        with T.parallel(0, matrix.tiles) as tile:
            totals = T.alloc_buffer((SUMMED_ROWS * 16,), "int32")
            with T.serial(0, count) as row:
                T.buffer_store(totals, splat(-sums[row], 16, "int32"), [T.ramp(row * 16, 1, 16)])
            _portable_tile(matrix, weights, q, totals, tile, first, count)
            with T.serial(0, count) as row:
                total = T.Bind(totals.vload([row * 16], "int32x16"))
                store_tile(matrix, acc, first + row, tile, total)


def _portable_tile(
    matrix: Matrix, weights: Any, q: Any, totals: Any, tile: Any, first: Any, count: Any
) -> None:
    """Add the products of one tile with `count` rows of q to `totals` [row][16]."""
    panel = T.alloc_buffer((_CHUNK_WORDS * 64,), "int16")
    chunk_blocks = _CHUNK_WORDS // matrix.planes
    with T.serial(0, -(-matrix.blocks // chunk_blocks)) as chunk:
        start = T.Bind(chunk * chunk_blocks)
        blocks = T.Bind(T.min(matrix.blocks - start, chunk_blocks))
        with T.serial(0, blocks) as block:
            source = (tile * matrix.blocks + start + block) * BLOCK_BYTES
            _unpack_int16(matrix, weights.vload([source], "uint8x64"), panel, block)

        def multiply(row: Any, height: int) -> None:
            begins = [
                T.Bind((first + row + i) * matrix.q_words + start * matrix.planes)
                for i in range(height)
            ]
            _multiply_int16(panel, q, begins, blocks * matrix.planes, totals, row)

        with T.serial(0, T.floordiv(count, _PORTABLE_ROWS)) as step:
            multiply(step * _PORTABLE_ROWS, _PORTABLE_ROWS)
        with T.If(T.floormod(count, _PORTABLE_ROWS) == 1), T.Then():
            multiply(count - 1, 1)


def _unpack_int16(matrix: Matrix, packed: Vector, panel: Any, block: Any) -> None:
    """Write the digits of a block as int16: of each word the even columns, then the odd."""
    lanes = T.Bind(T.reinterpret("uint16x32", packed))
    halves = [lanes & splat(255, 32, "uint16"), T.shift_right(lanes, splat(8, 32, "uint16"))]
    for half, byte in enumerate(halves):
        byte = T.Bind(byte)
        for plane in range(matrix.planes):
            if matrix.layout == "2bit":
                shifted = T.shift_right(byte, splat(2 * plane, 32, "uint16"))
                digit = shifted & splat(3, 32, "uint16")
            else:
                triple = T.Bind(byte * splat(3, 32, "uint16"))
                digit = T.shift_right(triple, splat(8, 32, "uint16"))
                byte = T.Bind(triple & splat(255, 32, "uint16"))
            target = (block * matrix.planes + plane) * 64 + half * 32
            T.buffer_store(panel, T.reinterpret("int16x32", digit), [T.ramp(target, 1, 32)])


def _multiply_int16(
    panel: Any, q: Any, begins: list[Any], words: Any, totals: Any, row: Any
) -> None:
    """Add the products of a panel with the rows of q that begin at `begins` to `totals`."""
    partial = zero_registers(len(begins), 32, "int16")
    with T.serial(0, words) as word:
        even = T.Bind(panel.vload([word * 64], "int16x32"))
        odd = T.Bind(panel.vload([word * 64 + 32], "int16x32"))
        for register, begin in zip(partial, begins, strict=True):
            spread = T.Bind(T.reinterpret("int16x32", T.broadcast(q[begin + word], 16)))
            eight = splat(8, 32, "int16")
            q_even = T.shift_right(T.shift_left(spread, eight), eight)
            q_odd = T.shift_right(spread, eight)
            put(register, register[0] + even * q_even + odd * q_odd)
    for offset, register in enumerate(partial):
        pair = T.Bind(T.reinterpret("int32x16", register[0]))
        half = splat(16, 16, "int32")
        low, high = T.shift_right(T.shift_left(pair, half), half), T.shift_right(pair, half)
        where = [T.ramp((row + offset) * 16, 1, 16)]
        T.buffer_store(totals, totals[where[0]] + low + high, where)
