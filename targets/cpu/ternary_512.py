# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Dot products of 64 bytes, and how packed vectors become digits.

vpdpbusd adds the products of 64 unsigned and 64 signed bytes to 16 int32; vpermb looks 64 bytes up
in a table of 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import Layout
from mmc.targets.cpu.ternary_tile import Vector, put, splat


def dot(register: Any, digits: Vector, word: Vector) -> None:
    """Add digits times a word of q to 16 sums."""
    unsigned, signed = T.reinterpret("int8x64", digits), T.reinterpret("int8x64", word)
    name = "llvm.x86.avx512.vpdpbusd.512"
    put(register, T.call_llvm_pure_intrin("int32x16", name, register[0], unsigned, signed))


def digits_of(layout: Layout, vectors: list[Vector]) -> list[Vector]:
    """The digits of each word of a block."""
    if layout == "2bit":
        (byte,) = vectors
        return [_shift(byte, 2 * word) & splat(3, 64, "uint8") for word in range(4)]
    if layout == "1.6bit":
        return _digits_1_6bit(vectors[0])
    return [
        _look_up(_table_name(spare, digit), index)
        for index, spare in _indices(vectors)
        for digit in range(3)
    ]


def _look_up(table: str, index: Vector) -> Vector:
    values = T.call_pure_extern("int8x64", table)
    name = "llvm.x86.avx512.permvar.qi.512"
    found = T.call_llvm_pure_intrin("int8x64", name, values, T.reinterpret("int8x64", index))
    return T.reinterpret("uint8x64", found)


def _digits_1_6bit(byte: Vector) -> list[Vector]:
    """The carry of 3 * byte: 1 from ceil(256 / 3) on, 2 from ceil(512 / 3) on."""
    digits: list[Vector] = []
    zero, one, two = (splat(digit, 64, "uint8") for digit in range(3))
    for _ in range(5):
        carry = T.Select(byte >= splat(86, 64, "uint8"), one, zero)
        digits.append(T.Bind(T.Select(byte >= splat(171, 64, "uint8"), two, carry)))
        byte = T.Bind(byte + byte + byte)
    return digits


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


def _table(spare: int, digit: int) -> str:
    """A function of LLVM that returns one digit of the code of each index."""
    index = np.arange(64)
    code = index >> spare + 1 << spare | index & (1 << spare) - 1
    listed = ", ".join(f"i8 {value}" for value in code // 3**digit % 3)
    return f"""
define linkonce_odr <64 x i8> @{_table_name(spare, digit)}() alwaysinline nounwind readnone {{
  ret <64 x i8> <{listed}>
}}
"""


# LLVM would rewrite a chain of multiplications by 3 as several slower ones by 9, 27, ...
_TRIPLE = """
define linkonce_odr <64 x i8> @mmc_triple(<64 x i8> %b) alwaysinline nounwind readnone {
  %r = call <64 x i8> asm "vpaddb $1, $1, $0\\0A\\09vpaddb $1, $0, $0", "=&v,v"(<64 x i8> %b)
    nounwind memory(none)
  ret <64 x i8> %r
}
"""

IMPORTED = _TRIPLE + "".join(_table(spare, digit) for spare in (3, 4, 5) for digit in range(3))
