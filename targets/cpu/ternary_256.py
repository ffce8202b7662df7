# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Dot products of 32 bytes, and how 32 packed bytes become their operands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import BLOCKS, Layout
from mmc.targets.cpu.ternary_tile import Vector, put, splat, zero_registers
from mmc.targets.tvm.elementary import hold

Operand: TypeAlias = tuple[int, int, Vector]
"""The word of the block that it is multiplied with, the group that it is summed in, the bytes."""


@dataclass(frozen=True)
class Stream:
    """How packed bytes are multiplied as they come.

    The operands of a group are summed together; the result is the sum of the groups, each times
    its factor, shifted right.
    """

    factors: tuple[int, ...]
    shift: int
    weight: int
    """The most that the bytes of one group and block add up to, lane by lane."""
    operands: Callable[[list[Vector]], Iterator[Operand]]
    """Makes them, one after the other, of half of each vector of a block."""


class Arithmetic:
    """How bytes are multiplied and summed."""

    panel_words: ClassVar[int]
    """Words that a panel of the GEMM holds at most."""

    def chunk_blocks(self, stream: Stream, blocks: int) -> int:
        """Blocks after which the sums must be widened."""
        raise NotImplementedError

    def registers(self, count: int) -> list[Any]:
        """Sums that are 0."""
        raise NotImplementedError

    def dot(self, register: Any, operand: Vector, word: Vector) -> None:
        """Add unsigned bytes times a word of q to the sums."""
        raise NotImplementedError

    def widen(self, register: Any, factor: int) -> Vector:
        """The sums as 8 int32, times a factor."""
        raise NotImplementedError


class Maddubs(Arithmetic):
    """AVX2: vpmaddubsw makes 16 int16 of 32 products, which are added in int16 for a while.

    A pair of products is at least -2 * 128 * digit, so digits that sum to at most 128 are safe:
    -128 * 128 * 2 = -2^15, and upwards 127 * 128 * 2 < 2^15.
    """

    panel_words: ClassVar[int] = 64

    def chunk_blocks(self, stream: Stream, blocks: int) -> int:
        return min(128 // stream.weight, blocks)

    def registers(self, count: int) -> list[Any]:
        return zero_registers(count, 16, "int16")

    def dot(self, register: Any, operand: Vector, word: Vector) -> None:
        put(register, register[0] + multiply_pairs(operand, word))

    def widen(self, register: Any, factor: int) -> Vector:
        return T.call_llvm_pure_intrin(
            "int32x8", "llvm.x86.avx2.pmadd.wd", register[0], splat(factor, 16, "int16")
        )


def multiply_pairs(unsigned: Vector, signed: Vector) -> Vector:
    """vpmaddubsw: the sums of two neighbouring products of bytes, as int16."""
    left, right = T.reinterpret("int8x32", unsigned), T.reinterpret("int8x32", signed)
    return T.call_llvm_pure_intrin("int16x16", "llvm.x86.avx2.pmadd.ub.sw", left, right)


class Vnni(Arithmetic):
    """AVX-VNNI: vpdpbusd adds 32 products to 8 int32."""

    panel_words: ClassVar[int] = 240

    def chunk_blocks(self, stream: Stream, blocks: int) -> int:
        return blocks

    def registers(self, count: int) -> list[Any]:
        return zero_registers(count, 8)

    def dot(self, register: Any, operand: Vector, word: Vector) -> None:
        unsigned, signed = T.reinterpret("int8x32", operand), T.reinterpret("int8x32", word)
        name = "llvm.x86.avx512.vpdpbusd.256"
        put(register, T.call_llvm_pure_intrin("int32x8", name, register[0], unsigned, signed))

    def widen(self, register: Any, factor: int) -> Vector:
        return register[0] * splat(factor, 8, "int32")


def _shifted(bytes_: Vector, count: int) -> Vector:
    """Shift 16 bit lanes right: the upper bits of a byte get bits of its neighbour."""
    return T.reinterpret("uint8x32", T.shift_right(_lanes(bytes_), splat(count, 16, "uint16")))


def _operands_2bit(vectors: list[Vector]) -> Iterator[Operand]:
    """Digits at bit 0 and at bit 2 of the byte and of the byte shifted by 4; no more shifts.

    Per 128 weights: a shift, 4 masks, 4 products and, without VNNI, 4 additions.
    """
    (packed,) = vectors
    low, high = splat(3, 32, "uint8"), splat(12, 32, "uint8")
    for word, byte in (0, packed), (2, hold(_shifted(packed, 4))):
        yield word, 0, byte & low
        yield word + 1, 1, byte & high


def stream_of(layout: Layout) -> Stream:
    """2bit: digits in place, in two groups; other layouts: all digits in one group."""
    if layout == "2bit":
        return Stream((4, 1), 2, 2 * (2 << 2), _operands_2bit)

    def operands(vectors: list[Vector]) -> Iterator[Operand]:
        for word, digits in enumerate(unpack_half(layout, vectors)):
            yield word, 0, digits

    return Stream((1,), 0, 2 * BLOCKS[layout].words, operands)


def unpack_half(layout: Layout, vectors: list[Vector]) -> Iterator[Vector]:
    """The digits of each word of half a block."""
    return _UNPACK[layout](vectors)


def _unpack_2bit(vectors: list[Vector]) -> Iterator[Vector]:
    (packed,) = vectors
    for word in range(4):
        yield (_shifted(packed, 2 * word) if word else packed) & splat(3, 32, "uint8")


def _unpack_1_6bit(vectors: list[Vector]) -> Iterator[Vector]:
    """Where the upper bits are 3, the lower six are v - 63, and 18 more for each of the fifth.

    v is taken apart into 9 times one number below 9 and another: vpshufb looks up their digits.
    """
    (packed,) = vectors
    lower = hold(packed & splat(63, 32, "uint8"))
    upper = hold(_shifted(packed, 6) & splat(3, 32, "uint8"))
    other = packed >= splat(192, 32, "uint8")

    def eighteenths(times: int) -> Vector:
        none, one, two = (splat(times * part, 32, "uint8") for part in range(3))
        some = T.Select(lower >= splat(18, 32, "uint8"), one, none)
        return T.Select(lower >= splat(36, 32, "uint8"), two, some)

    v = hold(T.Select(other, lower + splat(63, 32, "uint8") - eighteenths(18), lower))
    fifth = hold(T.Select(other, eighteenths(1), upper))
    ninth = hold(_shifted(_upper_of_product(v, 57), 1) & splat(15, 32, "uint8"))  # 57 / 512
    for pair in ninth, hold(v - ninth * splat(9, 32, "uint8")):
        yield _looked_up(_quotients(3), pair)
        yield _looked_up(_quotients(1), pair)
    yield fifth


def _upper_of_product(bytes_: Vector, factor: int) -> Vector:
    """The upper 8 bits of each byte times a factor below 128."""
    even = multiply_pairs(bytes_, splat(factor, 16, "uint16"))
    odd = multiply_pairs(bytes_, splat(factor << 8, 16, "uint16"))
    low = T.shift_right(_lanes(even), splat(8, 16, "uint16"))
    return T.reinterpret("uint8x32", low | _lanes(odd) & splat(0xFF00, 16, "uint16"))


def _unpack_1_67bit(vectors: list[Vector]) -> Iterator[Vector]:
    """Each code of 5 bits stands for three digits; a code below 16 and one from 16 on differ.

    vpshufb looks up the lower 4 bits, and gives 0 where bit 7 is set: 112 + code has it from 16 on,
    code - 16 below.  Per 96 weights of a row: 33 operations for the codes, 16 to index, 72 to look
    up.
    """
    for code in _codes(vectors):
        low, high = (hold(code + splat(add, 32, "uint8")) for add in (112, 240))
        for divisor in (1, 3, 9):
            entries = _quotients(divisor)
            yield _looked_up(entries[:16], low) | _looked_up(entries[16:], high)


def _codes(vectors: list[Vector]) -> Iterator[Vector]:
    """The eight codes of a block, as `mmc.ir.packing` draws them."""
    for packed in vectors:
        yield packed & splat(31, 32, "uint8")

    def part(vector: int, first: int, count: int, to: int) -> Vector:
        """Some bits of a vector, moved down to bit `to`."""
        mask = (1 << count) - 1 << to
        return _shifted(vectors[vector], first - to) & splat(mask, 32, "uint8")

    yield part(0, 5, 3, 0) | part(3, 5, 2, 3)
    yield part(1, 5, 3, 0) | part(4, 6, 2, 3)
    yield part(2, 5, 3, 0) | part(4, 5, 1, 3) | part(3, 7, 1, 4)


_UNPACK: dict[Layout, Callable[[list[Vector]], Iterator[Vector]]] = {
    "2bit": _unpack_2bit,
    "1.67bit": _unpack_1_67bit,
    "1.6bit": _unpack_1_6bit,
}


def _quotients(divisor: int) -> list[int]:
    """The digit that a number below 27 has at a power of 3."""
    return [number // divisor % 3 for number in range(27)]


def _looked_up(table: list[int], index: Vector) -> Vector:
    """The entry of each byte of the index, among the first 16."""
    packed = int.from_bytes(bytes(table[:16]), "little")
    parts = [T.int64(packed >> shift & ((1 << 64) - 1)) for shift in (0, 64)]
    entries = T.reinterpret("int8x32", T.Shuffle(parts * 2, [0, 1, 2, 3]))
    picked = T.call_llvm_pure_intrin(
        "int8x32", "llvm.x86.avx2.pshuf.b", entries, T.reinterpret("int8x32", index)
    )
    return T.reinterpret("uint8x32", picked)


def _lanes(bytes_: Vector) -> Vector:
    return T.reinterpret("uint16x16", bytes_)
