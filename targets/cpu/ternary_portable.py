# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The ternary matmul on any CPU: plain vector arithmetic that LLVM splits as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import BLOCKS, Layout, Run
from mmc.targets.cpu.ternary_tile import (
    Matrix,
    Vector,
    multiply_in_parts,
    put,
    splat,
    zero_registers,
)
from mmc.targets.tvm.elementary import hold

_CHUNK_WORDS = 60
"""Words whose products fit in an int16 sum: 60 words * 2 products * 2 * 128 = 30720."""

_PORTABLE_ROWS = 2


def write(matrix: Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    """Unpack a tile, 60 words at a time, into 16 bit digits, and multiply 16 bit by 16 bit.

        panel [60 words][2][32 int16]    columns 0 and 2 of the word: row 0, row 0, row 1, ...
                                         columns 1 and 3 of the word: row 0, row 0, row 1, ...

    Bound: per word and row of q, four operations on 32 int16 lanes, and the unpacking.
    """
    multiply_in_parts(matrix, q, acc, rows, partial(_portable_tile, matrix, weights, q))


def _portable_tile(
    matrix: Matrix, weights: Any, q: Any, totals: Any, tile: Any, first: Any, count: Any
) -> None:
    """Add the products of one tile with `count` rows of q to `totals` [row][16]."""
    panel = T.alloc_buffer((_CHUNK_WORDS * 64,), "int16")
    tile_start = T.Bind(tile * matrix.tile_vectors)
    for run in matrix.runs:
        words = BLOCKS[run.layout].words
        chunk_blocks = _CHUNK_WORDS // words
        with T.serial(0, -(-run.blocks // chunk_blocks)) as chunk:
            start = T.Bind(chunk * chunk_blocks)
            blocks = T.Bind(T.min(run.blocks - start, chunk_blocks))
            with T.serial(0, blocks) as block:
                _unpack_block(run, weights, tile_start, start + block, panel, block * words)
            first_word = T.Bind(run.first_word + start * words)

            def multiply(row: Any, height: int, first_word: Any, words: Any) -> None:
                begins = [
                    T.Bind((first + row + i) * matrix.q_words + first_word) for i in range(height)
                ]
                _multiply_int16(panel, q, begins, words, totals, row)

            with T.serial(0, T.floordiv(count, _PORTABLE_ROWS)) as step:
                multiply(step * _PORTABLE_ROWS, _PORTABLE_ROWS, first_word, blocks * words)
            with T.If(T.floormod(count, _PORTABLE_ROWS) == 1), T.Then():
                multiply(count - 1, 1, first_word, blocks * words)


def _unpack_block(
    run: Run, weights: Any, tile_start: Any, block: Any, panel: Any, word: Any
) -> None:
    """Write the digits of a block as int16, from `word` on: the even columns, then the odd."""
    vectors = BLOCKS[run.layout].vectors
    source = T.Bind(tile_start + run.first_vector + block * vectors)
    lanes = [
        T.Bind(T.reinterpret("uint16x32", weights.vload([(source + i) * 64], "uint8x64")))
        for i in range(vectors)
    ]
    for half, extract in enumerate((lambda x: x & _all(255), lambda x: T.shift_right(x, _all(8)))):
        columns = [hold(extract(x)) for x in lanes]
        for index, digit in enumerate(_DIGITS[run.layout](columns)):
            target = (word + index) * 64 + half * 32
            T.buffer_store(panel, T.reinterpret("int16x32", digit), [T.ramp(target, 1, 32)])


def _all(value: int) -> Vector:
    return splat(value, 32, "uint16")


def _digits_2bit(columns: list[Vector]) -> Iterator[Vector]:
    (byte,) = columns
    for word in range(4):
        yield T.shift_right(byte, _all(2 * word)) & _all(3)


def _digits_1_6bit(columns: list[Vector]) -> Iterator[Vector]:
    """The fifth digit stands above the others; where that is 3, it is an eighteenth of the lower 6.

    In so far, 57 / 1024 is an eighteenth, 57 / 512 a ninth, and 11 / 32 a third.
    """
    (byte,) = columns
    lower, upper = hold(byte & _all(63)), hold(T.shift_right(byte, _all(6)))
    part = hold(T.shift_right(lower * _all(57), _all(10)))
    other = T.EQ(upper, _all(3))
    v = hold(T.Select(other, lower + _all(63) - part * _all(18), lower))
    fifth = hold(T.Select(other, part, upper))
    ninth = hold(T.shift_right(v * _all(57), _all(9)))
    for pair in ninth, hold(v - ninth * _all(9)):
        third = hold(T.shift_right(pair * _all(11), _all(5)))
        yield third
        yield pair - third * _all(3)
    yield fifth


def _digits_1_67bit(columns: list[Vector]) -> Iterator[Vector]:
    """A code is d_0 + 3 d_1 + 9 d_2; so far 57 / 512 is a ninth and 11 / 32 is a third."""

    def bits(vector: int, first: int, count: int, to: int) -> Vector:
        moved = T.shift_right(columns[vector], _all(first)) & _all((1 << count) - 1)
        return T.shift_left(moved, _all(to))

    codes = [bits(vector, 0, 5, 0) for vector in range(5)]
    codes.append(bits(0, 5, 3, 0) | bits(3, 5, 2, 3))
    codes.append(bits(1, 5, 3, 0) | bits(4, 6, 2, 3))
    codes.append(bits(2, 5, 3, 0) | bits(4, 5, 1, 3) | bits(3, 7, 1, 4))
    for made in codes:
        code = hold(made)
        third = hold(T.shift_right(code * _all(57), _all(9)))
        rest = hold(code - third * _all(9))
        second = hold(T.shift_right(rest * _all(11), _all(5)))
        yield rest - second * _all(3)
        yield second
        yield third


_DIGITS: dict[Layout, Callable[[list[Vector]], Iterator[Vector]]] = {
    "2bit": _digits_2bit,
    "1.67bit": _digits_1_67bit,
    "1.6bit": _digits_1_6bit,
}
"""The digits of each word of a block, from its bytes in 16 bit lanes."""


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
