# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Dense products with a matrix of 4 bits a number, in whole numbers within a group.

y[..., n] = sum over groups of step[n, g] * (sum over its k of x[..., k] * (code[n, k] - 8)), + bias

A vector of 64 bytes holds four groups of 32 columns (`mmc.ir.ops.int4`): 16 bytes, four lanes of
int32, are one group, its lower halves 16 columns, the upper ones the next 16.  The digits of x
(`mmc.targets.cpu.dense_fixed`) lie in the order of these columns:

    bytes   | group 0 | group 1 | group 2 | group 3 |     & 15, >> 4
    digits  | k 0-15  | 32-47   | 64-79   | 96-111  |     then | 16-31 | 48-63 | 80-95 | 112-127 |
    steps   | s0 x 4  | s1 x 4  | s2 x 4  | s3 x 4  |

A lane sums eight products of codes and the upper three digits exactly, in one int32.  That is
rounded to float32, multiplied by the step and added to a running sum of that lane, in the same
order for any number of rows of x: an eighth of the roundings of a sum of floats.  Without its last
digit x is off by at most 2^-22 of the row's largest number:

    |error| <= 2^-22 max|x| sum over k of |w[n, k]|, and K / 32 roundings of the running sums

Bound: reading w where there is one row of x, if six dot products take no longer than 72 bytes.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Value
from mmc.ir.ops.int4 import GROUP, ZERO, DequantizeInt4
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.source import Input
from mmc.targets.cpu.dense_fixed import PART, Form, Part
from mmc.targets.cpu.ternary_tile import zero_registers
from mmc.targets.tvm.elementary import Vector, hold, number
from mmc.targets.tvm.fold import lane_total, register, serial
from mmc.targets.tvm.memory import Place, prefetch

HALF = GROUP // 2

ALONE = 2
"""Rows of w that digits are loaded for once, where there is one row of x."""

PREFETCH_BYTES = 8192
STEPS_AHEAD = 1280
"""How far ahead codes and steps are asked for, in bytes and in steps."""


def matrix_of_int4(op: Linear) -> tuple[Value, Value] | None:
    """The codes and the steps of w, or None where it is something else."""
    w = op.w
    if not isinstance(w, DequantizeInt4):
        return None
    given = isinstance(w.codes, Input) and isinstance(w.steps, Input)
    return (w.codes, w.steps) if given else None


def order_of(form: Form) -> Callable[[Any], Any]:
    """Where the digit of a column lies."""

    def place(column: Any) -> Any:
        vector, within = T.truncdiv(column, 2 * form.lanes), T.truncmod(column, 2 * form.lanes)
        group, half = T.truncdiv(within, GROUP), T.truncdiv(T.truncmod(within, GROUP), HALF)
        start = vector * (2 * form.lanes) + half * form.lanes + group * HALF
        return start + T.truncmod(column, HALF)

    return place


def tile_of(form: Form) -> tuple[int, int]:
    """Rows of x that codes are unpacked for once, and one row of w."""
    return (4, 1) if form.lanes == 64 else (2, 1)


@dataclass
class Int4(Part):
    """w = (codes - 8) * steps."""

    codes: Place
    steps: Place

    def __post_init__(self) -> None:
        self.vectors = self.product.k // (2 * self.form.lanes)
        self.zeros = T.alloc_buffer((PART * self.vectors * self._sums,), "int32")

    @property
    def _sums(self) -> int:
        return self.form.lanes // 4

    def prepare(self, row: Any) -> None:
        """What the zero of the codes adds to each lane."""
        with serial(self.vectors) as step:
            zero = number(ZERO, "uint8", self.form.lanes)
            where = T.ramp(self._zero(row, step), 1, self._sums)
            T.buffer_store(self.zeros, self._dot(row, step, zero, zero), [where])

    def _zero(self, row: Any, step: Any) -> Any:
        return (row * self.vectors + step) * self._sums

    def tile(self, row: Any, height: int, column: Any, width: int) -> None:
        nothing = number(0, "float32", self._sums)
        places = list(itertools.product(range(height), range(width)))
        totals = {place: register("float32", self._sums, nothing) for place in places}
        for j in range(width):
            self._ask_for_steps(column + j)
        with serial(self.vectors) as step:
            codes = [self._codes(column + j, step, ahead=height == 1) for j in range(width)]
            scales = [self._scales(column + j, step) for j in range(width)]
            for (i, j), total in totals.items():
                zero = self.zeros.vload([self._zero(row + i, step)], f"int32x{self._sums}")
                exact = self._dot(row + i, step, *codes[j]) - zero
                scaled = T.cast(exact, f"float32x{self._sums}") * scales[j]
                T.buffer_store(total, total[0] + scaled, [0])
        for (i, j), total in totals.items():
            y = lane_total(total[0], operator.add)
            self.store(row + i, column + j, T.cast(y, "float64") * T.float64(256))

    def _ask_for_steps(self, column: Any) -> None:
        """Those of a row further on."""
        offset = T.Bind(self.steps.offset((column, 0)))
        for first in range(0, self.product.k // GROUP, 32):  # a line of the cache
            prefetch(self.steps.buffer, offset + (first + STEPS_AHEAD), 2)

    def _codes(self, column: Any, step: Any, ahead: bool) -> tuple[Vector, Vector]:
        """The lower and the upper halves of a vector of bytes."""
        lanes = self.form.lanes
        offset = T.Bind(self.codes.offset((column, step * lanes)))
        if ahead:
            prefetch(self.codes.buffer, offset + PREFETCH_BYTES, 2)
        packed = T.Bind(self.codes.buffer.vload([offset], f"uint8x{lanes}"))
        pairs = T.reinterpret(f"uint16x{lanes // 2}", packed)
        upper = T.shift_right(pairs, number(4, "uint16", lanes // 2))
        mask = number(15, "uint8", lanes)
        return hold(packed & mask), hold(T.reinterpret(f"uint8x{lanes}", upper) & mask)

    def _scales(self, column: Any, step: Any) -> Vector:
        """The step of each lane."""
        groups = self.form.lanes // HALF
        offset = T.Bind(self.steps.offset((column, step * groups)))
        raw = self.steps.buffer.vload([offset], f"uint16x{groups}")
        wide = hold(T.cast(T.reinterpret(f"float16x{groups}", raw), f"float32x{groups}"))
        return hold(T.Shuffle([wide] * 4, [lane // 4 for lane in range(self._sums)]))

    def _dot(self, row: Any, step: Any, low: Vector, high: Vector) -> Vector:
        """The upper three digits of x times codes, lane by lane."""
        lanes = self.form.lanes
        place = T.Bind(step * (2 * lanes))
        (total,) = zero_registers(1, self._sums)
        for digit in (3, 2, 1):
            if digit < 3:
                shifted = T.shift_left(total[0], number(8, "int32", self._sums))
                T.buffer_store(total, shifted, [0])
            self.form.dot(total, low, self.fixed.load(row, digit, place, lanes))
            self.form.dot(total, high, self.fixed.load(row, digit, place + lanes, lanes))
        return total[0]
