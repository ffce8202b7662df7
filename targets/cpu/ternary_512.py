# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Dot products of 64 bytes, and how packed vectors become digits.

vpdpbusd adds the products of 64 unsigned and 64 signed bytes to 16 int32; vpermb looks 64 bytes up
in a table of 64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import Layout
from mmc.targets.cpu.ternary_tile import Vector, put, splat


def dot(register: Any, digits: Vector, word: Vector) -> None:
    """Add digits times a word of q to 16 sums."""
    put(register, _added(register[0], digits, word))


def add_bytes(total: Vector, words: Vector) -> Vector:
    """16 sums with the four int8 of 16 words added."""
    return _added(total, splat(1, 64, "uint8"), words)


def _added(total: Vector, unsigned: Vector, signed: Vector) -> Vector:
    left, right = T.reinterpret("int8x64", unsigned), T.reinterpret("int8x64", signed)
    name = "llvm.x86.avx512.vpdpbusd.512"
    return T.call_llvm_pure_intrin("int32x16", name, total, left, right)


def digits_of(layout: Layout, vectors: list[Vector]) -> list[Vector]:
    """The digits of each word of a block."""
    if layout == "1.67bit":
        return [
            _look_up(_table_name(spare, digit), index)
            for index, spare in _indices(vectors)
            for digit in range(3)
        ]
    return [_shift(byte, bit) & splat(3, 64, "uint8") for byte, bit in in_place(layout, vectors)]


def _look_up(table: str, index: Vector) -> Vector:
    values = T.call_pure_extern("int8x64", table)
    name = "llvm.x86.avx512.permvar.qi.512"
    found = T.call_llvm_pure_intrin("int8x64", name, values, T.reinterpret("int8x64", index))
    return T.reinterpret("uint8x64", found)


def in_place(layout: Layout, vectors: list[Vector]) -> list[tuple[Vector, int]]:
    """For each word the bytes that hold its digits among others, and the first of their two bits.

    1.6bit: vpermb looks four digits up by the lower 6 bits; the fifth stands above them.  Where the
    upper bits are 3, a second table flips what is then wrong, of the first three digits and of the
    fifth; all other bytes it sees as 191, for which it holds 0: masks would cost more.
    """
    (byte,) = vectors
    if layout == "2bit":
        return [(byte, 2 * word) for word in range(4)]
    four = T.Bind(_look_up("mmc_four", byte))
    flips = T.Bind(_look_up("mmc_flips", T.max(byte, splat(191, 64, "uint8"))))
    flipped = T.Bind(four ^ flips)
    return [(flipped, 0), (flipped, 2), (flipped, 4), (four, 6), (byte ^ flips, 6)]


def _indices(vectors: list[Vector]) -> list[tuple[Vector, int]]:
    """For each code of a 1.67bit block the indices that vpermb takes, and their spare bit.

    vpermb looks at bits 0 to 5.  One of them is not of the code, and may be anything, because the
    table for that spare bit says the same for both of its values.
    """

    def select(mask: int, left: Vector, right: Vector) -> Vector:
        kept, rest = splat(mask, 64, "uint8"), splat(255 - mask, 64, "uint8")
        return T.Bind((left & kept) | (right & rest))

    upper_3, upper_4 = T.Bind(_shift(vectors[3], 2)), T.Bind(_shift(vectors[4], 2))
    lower = [_shift(vector, 5) for vector in vectors[:3]]
    return [
        *((vector, 5) for vector in vectors),
        (select(7, lower[0], upper_3), 5),
        (select(7, lower[1], upper_4), 3),
        (select(7, lower[2], select(8, upper_4, upper_3)), 4),
    ]


def _shift(byte: Vector, count: int) -> Vector:
    """Shift 16 bit lanes right: the upper bits of a byte get bits of its neighbour."""
    if count == 0:
        return byte
    lanes = T.shift_right(T.reinterpret("uint16x32", byte), splat(count, 32, "uint16"))
    return T.reinterpret("uint8x64", lanes)


def _table_name(spare: int, digit: int) -> str:
    return f"mmc_digit_{digit}_spare_{spare}"


def _tables() -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Each table by the name of the function that returns it."""
    index = np.arange(64)
    for spare, digit in itertools.product((3, 4, 5), range(3)):
        code = index >> spare + 1 << spare | index & (1 << spare) - 1
        yield _table_name(spare, digit), code // 3**digit % 3
    yield "mmc_four", _four(index)
    fifth, v = index // 18, 63 + index % 18
    flips = (_four(index) ^ _four(v)) & 63 | (3 ^ fifth) << 6
    yield "mmc_flips", np.where(index < 63, flips, 0)


def _four(v: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Four digits of 2 bits."""
    return sum((v // 3 ** (3 - digit) % 3 << 2 * digit for digit in range(4)), np.zeros_like(v))


def _function(name: str, table: npt.NDArray[np.int64]) -> str:
    listed = ", ".join(f"i8 {value}" for value in table)
    return f"""
define linkonce_odr <64 x i8> @{name}() alwaysinline nounwind readnone {{
  ret <64 x i8> <{listed}>
}}
"""


IMPORTED = "".join(itertools.starmap(_function, _tables()))
