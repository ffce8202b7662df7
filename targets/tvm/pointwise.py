# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Pointwise operations on TIR expressions of one lane or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Op, producer
from mmc.ir.ops import logic
from mmc.ir.ops import pointwise as ir
from mmc.ir.types import DType
from mmc.targets.tvm import elementary
from mmc.targets.tvm.bounds import is_scale, least
from mmc.targets.tvm.elementary import Vector, convert, dtype_of, hold, like, truth
from mmc.targets.tvm.memory import COMPUTED


def covers(op: Op) -> bool:
    """Whether `compute` knows the operation."""
    return isinstance(op, ir.Cast) or type(op) in FORMULAS


def compute(op: Op, operands: Sequence[Vector]) -> Vector:
    """The result's elements from the elements of the operands."""
    if isinstance(op, ir.Cast) and op.dtype is DType.BOOL:
        return truth(T.NE(operands[0], like(operands[0], 0)))
    if isinstance(op, ir.Cast):
        return convert(operands[0], COMPUTED[op.dtype])
    return FORMULAS[type(op)](op, *operands)


def _is_float(x: Vector) -> bool:
    return dtype_of(x)[0].startswith("float")


def _negative(_: Op, x: Vector) -> Vector:
    return x * like(x, -1)


def _sign(_: Op, x: Vector) -> Vector:
    below = T.Select(x < like(x, 0), like(x, -1) if dtype_of(x)[0][0] != "u" else x, x * like(x, 0))
    return T.Select(x > like(x, 0), like(x, 1), below)


def _divide(op: ir.Div, x: Vector, y: Vector) -> Vector:
    if is_scale(op) and dtype_of(x) == ("float32", 1):
        return elementary.quotient(x, y)
    return x / y if _is_float(x) else T.floordiv(x, y)


def _reciprocal(op: ir.Reciprocal, x: Vector) -> Vector:
    scale = producer(op.x)
    if isinstance(scale, ir.Div) and is_scale(scale) and dtype_of(x) == ("float32", 1):
        return elementary.reciprocal(x)
    return like(x, 1.0) / x


def _extremum(keeps: Callable[[Vector, Vector], Any]) -> Callable[..., Vector]:
    """The first operand where `keeps` holds or it is not a number, else the second."""

    def choose(_: Op, x: Vector, y: Vector) -> Vector:
        first = T.Select(keeps(x, y), x, y)
        return T.Select(T.EQ(x, x), first, x) if _is_float(x) else first

    return choose


def _power(_: Op, x: Vector, y: Vector) -> Vector:
    if _is_float(x):
        return T.pow(x, y)
    # Exact as long as the result fits in the 53 bits of a float64.
    wide = T.pow(convert(x, "float64"), convert(y, "float64"))
    return convert(T.nearbyint(wide), dtype_of(x)[0])


def _error_function(x: Vector) -> Vector:
    """The C library's erff, lane by lane."""
    _, lanes = dtype_of(x)
    if lanes == 1:
        return T.call_pure_extern("float32", "erff", x)
    inside, outside = (T.alloc_buffer((lanes,), "float32") for _ in range(2))
    T.buffer_store(inside, x, [T.ramp(0, 1, lanes)])
    with T.serial(0, lanes) as lane:
        T.buffer_store(outside, T.call_pure_extern("float32", "erff", inside[lane]), [lane])
    return T.Bind(outside[T.ramp(0, 1, lanes)])


def _gelu(op: ir.Gelu, x: Vector) -> Vector:
    half = like(x, 0.5) * x
    if op.approximate == "tanh":
        inner = like(x, math.sqrt(2 / math.pi)) * (x + like(x, 0.044715) * x * x * x)
        return half * (like(x, 1.0) + elementary.tanh(hold(inner)))
    return half * (like(x, 1.0) + _error_function(hold(x * like(x, math.sqrt(0.5)))))


def _compare(holds: Callable[[Vector, Vector], Any]) -> Callable[..., Vector]:
    return lambda _, x, y: truth(holds(x, y))


def _where(_: Op, condition: Vector, x: Vector, y: Vector) -> Vector:
    return T.Select(T.NE(condition, like(condition, 0)), x, y)


FORMULAS: dict[type[Op], Callable[..., Vector]] = {
    ir.Neg: _negative,
    ir.Abs: lambda _, x: elementary.magnitude(x),
    ir.Exp: lambda _, x: elementary.exp(x),
    ir.Log: lambda _, x: T.log(x),
    ir.Sqrt: lambda _, x: T.sqrt(x),
    ir.Rsqrt: lambda op, x: elementary.inverse_root(x, least(op.x)),
    ir.Reciprocal: _reciprocal,
    ir.Square: lambda _, x: x * x,
    ir.Sigmoid: lambda _, x: elementary.sigmoid(x),
    ir.Silu: lambda _, x: elementary.silu(x),
    ir.Tanh: lambda _, x: elementary.tanh(x),
    ir.Relu: lambda _, x: T.max(x, like(x, 0)),
    ir.Gelu: _gelu,
    ir.Softplus: lambda _, x: elementary.softplus(x),
    ir.Erf: lambda _, x: _error_function(x),
    ir.Sin: lambda _, x: T.sin(x),
    ir.Cos: lambda _, x: T.cos(x),
    ir.Sign: _sign,
    ir.Floor: lambda _, x: T.floor(x) if _is_float(x) else x,
    ir.Round: lambda op, x: elementary.round_to(x, op.mode) if _is_float(x) else x,
    ir.Clamp: lambda op, x: elementary.clamp(x, op.low, op.high),
    logic.Not: lambda _, x: truth(T.EQ(x, like(x, 0))),
    ir.Add: lambda _, x, y: x + y,
    ir.Sub: lambda _, x, y: x - y,
    ir.Mul: lambda _, x, y: x * y,
    ir.Div: _divide,
    ir.Pow: _power,
    ir.Maximum: _extremum(lambda x, y: x > y),
    ir.Minimum: _extremum(lambda x, y: x < y),
    logic.BitAnd: lambda _, x, y: x & y,
    logic.BitOr: lambda _, x, y: x | y,
    logic.ShiftRight: lambda _, x, y: T.shift_right(x, y),
    logic.Equal: _compare(T.EQ),
    logic.NotEqual: _compare(T.NE),
    logic.Less: _compare(lambda x, y: x < y),
    logic.LessEqual: _compare(lambda x, y: x <= y),
    logic.Greater: _compare(lambda x, y: x > y),
    logic.GreaterEqual: _compare(lambda x, y: x >= y),
    logic.Where: _where,
}
