"""Aten's operations that make elements: numbers, ranges and triangles."""

# Table entries are lambdas, called with whatever torch's schema says.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

from mmc.frontends.aten_call import Call, Translate
from mmc.frontends.operands import Operand, cast, number, operand, reshape
from mmc.ir.op import Value
from mmc.ir.ops import logic
from mmc.ir.ops import pointwise as p
from mmc.ir.ops.shape import Expand
from mmc.ir.ops.source import Constant, Iota
from mmc.ir.types import SymbolicDim


def _filled(call: Call, value: Operand) -> Value:
    if isinstance(value, SymbolicDim | Value):
        return Expand(call.operand(value), call.shape)
    return Constant(number(value, call.dtype), call.type)


def _full(call: Call, shape: Any, value: Operand, *_: Any) -> Value:
    return _filled(call, value)


def _new_full(call: Call, x: Any, shape: Any, value: Operand, *_: Any) -> Value:
    return _filled(call, value)


def _zeros(call: Call, *_: Any) -> Value:
    return _filled(call, 0)


def _ones(call: Call, *_: Any) -> Value:
    return _filled(call, 1)


def _arange(call: Call, start: Operand, step: Operand = 1) -> Value:
    if isinstance(start, int) and step == 1:
        return cast(Iota(call.shape[0], start), call.dtype)
    steps = p.Mul(cast(Iota(call.shape[0]), call.dtype), call.operand(step))
    return p.Add(steps, call.operand(start))


def _triangle(keep: type[logic.Comparison]) -> Translate:
    """For triu and tril: compare the column with the row."""

    def translate(call: Call, x: Value, diagonal: int = 0) -> Value:
        rows, columns = call.shape[-2:]
        row = reshape(Iota(rows, diagonal), (rows, 1))
        return logic.Where(keep(Iota(columns), row), x, operand(0, call.dtype))

    return translate


TABLE: dict[str, Translate] = {
    "aten.full": _full,
    "aten.full_like": _full,
    "aten.new_full": _new_full,
    "aten.fill": _full,
    "aten.scalar_tensor": lambda call, value, *_: _filled(call, value),
    "aten.zeros": _zeros,
    "aten.zeros_like": _zeros,
    "aten.new_zeros": _zeros,
    "aten.ones": _ones,
    "aten.ones_like": _ones,
    "aten.new_ones": _ones,
    "aten.arange.default": lambda call, *_: _arange(call, 0),
    "aten.arange.start": lambda call, start, *_: _arange(call, start),
    "aten.arange.start_step": lambda call, start, end, step, *_: _arange(call, start, step),
    "aten.triu": _triangle(logic.GreaterEqual),
    "aten.tril": _triangle(logic.LessEqual),
}
