# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Rows of floats in fixed point, for dense products in whole numbers.

A row of x is x = X / 2^e, with e such that its largest number is about 2^30 to 2^31, and X is four
signed digits of 8 bits: X = d0 + 2^8 d1 + 2^16 d2 + 2^24 d3.  Numbers of at least 2^-6 of the row's
largest are X / 2^e exactly; smaller ones are off by at most 2^-30 of the largest: less than a sum
of floats loses.  vpdpbusd multiplies a digit of 64 numbers by 64 unsigned bytes, and sums exactly.

A row with a number that is not finite is multiplied in float32, as `mmc.targets.tvm.dense` does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.targets.cpu import ternary_512
from mmc.targets.cpu.features import Isa
from mmc.targets.cpu.share import share
from mmc.targets.cpu.ternary_256 import Vnni
from mmc.targets.tvm import dense
from mmc.targets.tvm.elementary import Vector, bits, hold, like, number, spread
from mmc.targets.tvm.fold import LANES, for_columns, lane_total, register, serial
from mmc.targets.tvm.memory import Place

DIGITS = 4

TOP = 30
NEAR_TWO = 1 << 17
"""A largest number of 1.984 * 2^n or more counts as 2^(n + 1): digits go up to 1.992 * 2^30."""

PART = 32
"""Rows of x whose digits lie in the second cache while w goes by."""

BLOCK = 16
"""Rows of w that a thread takes at a time."""


@dataclass(frozen=True)
class Form:
    """Bytes of a vector, and the dot product that adds to a quarter as many int32."""

    lanes: int
    dot: Callable[[Any, Vector, Vector], None]


FORMS: dict[Isa, tuple[Form, ...]] = {
    "avx512_vnni": (Form(64, ternary_512.dot), Form(32, Vnni().dot)),
    "avx_vnni": (Form(32, Vnni().dot),),
}
"""The vectors of an instruction set, widest first."""


class FixedPoint:
    """Some rows of x as digits [row, digit, column], and what goes with each row.

    unit: 2^-e, or 0 where a number is not finite.  total: the sum of X.
    order: the place of a column among the digits; 16 columns stay together.
    """

    def __init__(self, x: Place, k: int, order: Callable[[Any], Any] = lambda k: k) -> None:
        self.x, self.k, self.order = x, k, order
        self.stride = -(-k // 64) * 64
        self.digits = T.alloc_buffer((PART * DIGITS * self.stride,), "int8")
        self.unit, self.total = (T.alloc_buffer((PART,), "float64") for _ in range(2))

    def load(self, row: Any, digit: int, place: Any, lanes: int) -> Vector:
        """Digits of neighbours."""
        return self.digits.vload([self._at(row, digit, place)], f"int8x{lanes}")

    def one(self, row: Any, digit: int, place: Any) -> Any:
        return self.digits[self._at(row, digit, place)]

    def _at(self, row: Any, digit: int, place: Any) -> Any:
        return (row * DIGITS + digit) * self.stride + place

    def is_not_finite(self, row: Any) -> Any:
        """Whether the row holds a number that is not, and so has no digits."""
        return T.EQ(self.unit[row], T.float64(0))

    def convert(self, source: Any, row: Any) -> None:
        """Row `source` of x becomes row `row`."""
        largest = T.Bind(self._largest(source))
        finite = T.Bind(largest < 0x7F800000)
        exponent = T.shift_right(largest + NEAR_TWO, T.int32(23))
        e = T.Bind(T.cast(TOP + 127 - T.max(exponent, T.int32(1)), "int64"))
        T.buffer_store(self.unit, T.Select(finite, _power_of_two(0 - e), T.float64(0)), [row])
        with T.If(finite), T.Then():
            T.buffer_store(self.total, self._digits(source, row, T.Bind(_power_of_two(e))), [row])

    def _largest(self, source: Any) -> Any:
        """The bits of the largest magnitude; of one that is not finite where there is one."""
        most = {lanes: register("int32", lanes, number(0, "int32", lanes)) for lanes in (LANES, 1)}

        def add(lanes: int, column: Any) -> None:
            x = bits(self.x.load((source, column), lanes), "int32")
            T.buffer_store(most[lanes], T.max(most[lanes][0], x & like(x, 0x7FFFFFFF)), [0])

        for_columns(self.k, functools.partial(add, LANES), functools.partial(add, 1))
        return T.max(lane_total(most[LANES][0], T.max), most[1][0])

    def _digits(self, source: Any, row: Any, scale: Any) -> Any:
        """Write the digits of a row; returns the sum of X."""
        zero = {lanes: number(0, "float64", lanes) for lanes in (LANES, 1)}
        totals = {lanes: register("float64", lanes, zero[lanes]) for lanes in zero}

        def write(lanes: int, column: Any) -> None:
            x = T.cast(self.x.load((source, column), lanes), vector("float64", lanes))
            whole = hold(T.nearbyint(x * spread(scale, lanes)))
            T.buffer_store(totals[lanes], totals[lanes][0] + whole, [0])
            rest = hold(T.cast(whole, vector("int32", lanes)))
            for digit in range(DIGITS):
                up = T.shift_left(rest, like(rest, 24))
                signed = hold(T.shift_right(up, like(rest, 24)))
                start = self._at(row, digit, self.order(column))
                where = start if lanes == 1 else T.ramp(start, 1, lanes)
                T.buffer_store(self.digits, T.cast(signed, vector("int8", lanes)), [where])
                rest = hold(T.shift_right(rest - signed, like(rest, 8)))

        for_columns(self.k, functools.partial(write, LANES), functools.partial(write, 1))
        return lane_total(totals[LANES][0], lambda a, b: a + b) + totals[1][0]


@dataclass
class Part:
    """Some rows of x, from `first` on, in fixed point, times all rows of w."""

    form: Form
    product: dense.Product
    fixed: FixedPoint
    first: Any
    count: Any

    def prepare(self, row: Any) -> None:
        """What else is needed of a row in fixed point."""

    def tile(self, row: Any, height: int, column: Any, width: int) -> None:
        """Store the results of rows of x, which are finite, and rows of w."""
        raise NotImplementedError

    def write(self, tile: tuple[int, int], alone: int) -> None:
        """Rows of x and of w that are multiplied together, and of w where one row of x is left."""
        with serial(self.count) as row:
            self.fixed.convert(self.first + row, row)
            self.prepare(row)
        share(-(-self.product.n // BLOCK), functools.partial(self._block, tile, alone))

    def _block(self, tile: tuple[int, int], alone: int, block: Any) -> None:
        """Some rows of w times all rows of x; again in float32 for those that are not finite."""
        start = T.Bind(T.cast(block, "int64") * BLOCK)
        columns = T.Bind(T.min(T.int64(BLOCK), self.product.n - start))
        dense.in_tiles(
            tile, alone, self.count, columns,
            lambda row, height, column, width: self.tile(row, height, start + column, width),
        )  # fmt: skip
        with serial(self.count) as row, T.If(self.fixed.is_not_finite(row)), T.Then():
            self._widened(row, start, columns)

    def _widened(self, row: Any, start: Any, columns: Any) -> None:
        with serial(columns) as column:
            self.product.tile(self.first + row, 1, start + column, 1)

    def store(self, row: Any, column: Any, total: Any) -> None:
        """Write a result, given in units of the row."""
        y = T.cast(total * self.fixed.unit[row], "float32")
        self.product.store(self.first + row, column, y)


def for_parts(rows: Any, work: Callable[[Any, Any], None]) -> None:
    """Call `work(first, count)` for some rows after the other."""
    with serial(T.ceildiv(rows, T.int64(PART))) as part:
        first = T.Bind(part * PART)
        work(first, T.Bind(T.min(rows - first, T.int64(PART))))


def vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _power_of_two(n: Any) -> Any:
    """2^n as float64."""
    return T.reinterpret("float64", T.shift_left(n + 1023, T.int64(52)))
