# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Dense products with a matrix of bytes, in whole numbers.

y[..., n] = sum over k of x[..., k] * (w[n, k] - zero), plus bias[n]

    w      64 bytes, loaded once for all digits of x (`mmc.targets.cpu.dense_fixed`)
    sums   16 int32 for each digit: row of w by row of w, combined at its end

Nothing is rounded between the fixed point and the one float32 at the end: sums of int32 are
combined in float64, which holds every whole number up to 2^53.  So the order of a sum does not
matter, and a token alone gets the bits that it gets within a prompt.

    |error| <= 2^-30 max|x| sum over k of |w[n, k] - zero|, and half a unit in y's last place

Bound: reading w where there is one row of x; in a prompt four dot products for 64 numbers.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Value
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.pointwise import Add, Cast
from mmc.ir.ops.source import Constant, Input
from mmc.ir.types import DType
from mmc.targets.cpu.dense_fixed import DIGITS, Form, Part
from mmc.targets.cpu.ternary_tile import zero_registers
from mmc.targets.tvm.elementary import Vector, dtype_of, hold, number
from mmc.targets.tvm.fold import lane_total, register, serial
from mmc.targets.tvm.memory import Place, prefetch

MAX_COLUMNS = 1 << 14
"""Up to 2^14 columns int32 holds 255 * 128 * columns, and float64 255 * 2^31 * columns."""

PREFETCH_BYTES = 6144
"""How far ahead weights are asked for."""


def matrix_of_bytes(op: Linear) -> tuple[Value, int] | None:
    """The bytes and the zero of w = bytes - zero, or None where w is something else."""
    wide, zero = op.w, 0.0
    if isinstance(wide, Add) and isinstance(wide.y, Constant):
        wide, zero = wide.x, -float(wide.y.value)
    narrow = wide.x if isinstance(wide, Cast) else wide
    whole = zero == int(zero) and 0 <= zero <= 255
    if not isinstance(narrow, Input) or narrow.type.dtype is not DType.U8 or not whole:
        return None
    columns = op.w.type.shape[1]
    return (narrow, int(zero)) if isinstance(columns, int) and columns <= MAX_COLUMNS else None


def tile_of(form: Form) -> tuple[int, int]:
    """Rows of x and of w whose sums are in registers: 24 of 32, or 8 of 16."""
    return (2, 3) if form.lanes == 64 else (1, 2)


@dataclass
class Bytes(Part):
    """w = bytes - zero."""

    w: Place
    zero: int

    def tile(self, row: Any, height: int, column: Any, width: int) -> None:
        places = list(itertools.product(range(height), range(width)))
        lanes = self.form.lanes
        sums = {place: zero_registers(DIGITS, lanes // 4) for place in places}
        whole = self.product.k // lanes
        with serial(whole) as step:
            k = T.Bind(step * lanes)
            w = [self._weights(column + j, k, ahead=height * width == 1) for j in range(width)]
            for (i, j), digit in itertools.product(places, range(DIGITS)):
                self.form.dot(sums[i, j][digit], w[j], self.fixed.load(row + i, digit, k, lanes))
        for i, j in places:
            total = _combined([s[0] for s in sums[i, j]])
            total = total + self._rest(row + i, column + j, whole * lanes)
            total = total - self.fixed.total[row + i] * T.float64(self.zero)
            self.store(row + i, column + j, total)

    def _weights(self, row: Any, k: Any, ahead: bool) -> Vector:
        """A vector of bytes; where there is one row of x, those further on are asked for."""
        offset = T.Bind(self.w.offset((row, k)))
        if ahead:
            prefetch(self.w.buffer, offset + PREFETCH_BYTES, 2)
        return T.Bind(self.w.buffer.vload([offset], f"uint8x{self.form.lanes}"))

    def _rest(self, row: Any, column: Any, start: int) -> Any:
        """The columns past the last whole vector, one at a time."""
        total = register("float64", 1, T.float64(0))
        with serial(self.product.k - start) as step:
            w = T.Bind(T.cast(self.w.load((column, step + start), 1), "int32"))
            for digit in range(DIGITS):
                x = self.fixed.one(row, digit, step + start)
                product = T.cast(T.cast(x, "int32") * w, "float64")
                T.buffer_store(total, total[0] + product * T.float64(256**digit), [0])
        return total[0]


def _combined(sums: list[Vector]) -> Any:
    """The sum over all lanes of s0 + 2^8 s1 + 2^16 s2 + 2^24 s3."""
    total: Any = None
    for digit, lanes in enumerate(sums):
        while dtype_of(lanes)[1] > 4:
            half = f"int32x{dtype_of(lanes)[1] // 2}"
            lanes = hold(T.vectorlow(half, lanes) + T.vectorhigh(half, lanes))
        wide = T.cast(lanes, "float64x4") * number(256**digit, "float64", 4)
        total = wide if total is None else total + wide
    return lane_total(hold(total), lambda a, b: a + b)
