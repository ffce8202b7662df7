# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Loops over columns, and the running results of reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Op
from mmc.ir.ops.norm import MeanSquare, RmsStatistic
from mmc.ir.ops.reduce import ArgMax, Max, Mean
from mmc.ir.types import DType
from mmc.targets.tvm import elementary
from mmc.targets.tvm.elementary import Vector, hold, number, spread
from mmc.targets.tvm.memory import COMPUTED, as_expression, narrow, widen

LANES = 16
"""Columns that are computed together."""


def rounded(x: Vector, dtype: DType) -> Vector:
    """bf16 and f16 are computed in float32; each result is rounded as if it were not."""
    return hold(widen(narrow(x, dtype), dtype) if dtype in (DType.BF16, DType.F16) else x)


def serial(extent: Any) -> Any:
    """A loop over [0, extent)."""
    return T.serial(T.int64(0), as_expression(extent))


def register(dtype: str, lanes: int, start: Vector) -> Any:
    """A variable."""
    buffer = elementary.variable(dtype if lanes == 1 else f"{dtype}x{lanes}")
    T.buffer_store(buffer, start, [0])
    return buffer


def lane_total(x: Vector, combine: Callable[[Vector, Vector], Vector]) -> Vector:
    """Combine 16 lanes to one number: halves against halves, always in the same order."""
    dtype, lanes = elementary.dtype_of(x)
    while lanes > 4:
        lanes //= 2
        half = f"{dtype}x{lanes}"
        x = hold(combine(T.vectorlow(half, x), T.vectorhigh(half, x)))
    quarter = T.alloc_buffer((4,), dtype)
    T.buffer_store(quarter, x, [T.ramp(0, 1, 4)])
    pairs = combine(quarter[0], quarter[2]), combine(quarter[1], quarter[3])
    return hold(combine(*pairs))


def for_columns(columns: Any, many: Callable[[Any], None], one: Callable[[Any], None]) -> None:
    """Run over columns: 16 at a time, then one at a time what is left."""
    if isinstance(columns, int) and columns < LANES:
        full: Any = 0
    else:
        full = columns // LANES if isinstance(columns, int) else T.floordiv(columns, LANES)
    rest = columns - full * LANES
    if not (isinstance(full, int) and full == 0):
        with serial(full) as block:
            many(T.Bind(block * LANES))
    if not (isinstance(rest, int) and rest == 0):
        with serial(rest) as column:
            one(T.Bind(column + full * LANES))


class Fold:
    """The running result of a reduction, lane by lane.

    sum, mean: a sum.  mean_square, rms_statistic: a sum of squares.  max: the largest.  arg_max:
    the largest and where it was met first.

    parts: running results side by side, for whoever combines them.
    """

    def __init__(self, op: Op, lanes: int, parts: int = 1) -> None:
        self.op, self.lanes, self.parts = op, lanes, parts
        dtype: DType = op.operands[0].type.dtype
        self.dtype = "float32" if isinstance(op, Mean) else COMPUTED[dtype]
        least = _lowest(self.dtype) if isinstance(op, Max | ArgMax) else 0
        self.first = number(least, self.dtype, lanes)
        self.total = register(self.dtype, lanes, self.first)
        if parts > 1:
            self.total = T.alloc_buffer((parts,), self.dtype, scope="local")
            for part in range(parts):
                T.buffer_store(self.total, self.first, [part])
        if isinstance(op, ArgMax):
            self.where = register("int64", lanes, number(0, "int64", lanes))

    def add(self, x: Vector, position: Any, part: Any = 0) -> None:
        x = hold(elementary.convert(x, self.dtype))
        if isinstance(self.op, MeanSquare | RmsStatistic):
            x = x * x
        if isinstance(self.op, ArgMax):
            better = x > self.total[0]
            here = spread(as_expression(position), self.lanes)
            T.buffer_store(self.where, T.Select(better, here, self.where[0]), [0])
        T.buffer_store(self.total, self.combine(self.total[part], x), [part])

    def combine(self, x: Vector, y: Vector) -> Vector:
        if isinstance(self.op, Max | ArgMax) or self.op.operands[0].type.dtype is DType.BOOL:
            return T.max(x, y)
        return x + y

    def result(self, size: Any) -> Vector:
        """The reduction's result, lane by lane, over `size` elements."""
        total = self.where[0] if isinstance(self.op, ArgMax) else self.total[0]
        return finish(self.op, total, size)


def finish(op: Op, total: Vector, size: Any) -> Vector:
    """From the running result to the result; `size` is the number of elements."""
    _, lanes = elementary.dtype_of(total)
    if isinstance(op, Mean | MeanSquare | RmsStatistic):
        if isinstance(size, int):
            total = elementary.over(total, size)
        else:
            total = total / spread(T.cast(size, "float32"), lanes)
    if isinstance(op, RmsStatistic):
        total = elementary.inverse_root(total + number(op.eps, "float32", lanes), op.eps)
    dtype = op.types[0].dtype
    return rounded(elementary.convert(total, COMPUTED[dtype]), dtype)


def _lowest(dtype: str) -> float | int:
    if dtype.startswith("float"):
        return -float("inf")
    bits = int(dtype.lstrip("uint"))
    return 0 if dtype[0] == "u" else -(1 << (bits - 1))
