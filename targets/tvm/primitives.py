"""Rewrite a kernel body in the operations that the row emitter knows.

Normalisation, quantisation, softmax and dequantisation become arithmetic and row reductions.  Equal
operations are one object, so three quantisers of one row share its normalisation by construction.
"""

from __future__ import annotations

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value
from mmc.ir.ops.logic import Where
from mmc.ir.ops.norm import LayerNorm, RmsNorm, RmsStatistic
from mmc.ir.ops.pointwise import (
    Abs,
    Add,
    Binary,
    Cast,
    Clamp,
    Detach,
    Div,
    Exp,
    Maximum,
    Mul,
    Reciprocal,
    Round,
    Rsqrt,
    Square,
    Sub,
    Unary,
)  # fmt: skip
from mmc.ir.ops.reduce import Max, Mean, Reduction, Softmax, Sum
from mmc.ir.ops.shape import Reshape
from mmc.ir.ops.source import scalar
from mmc.ir.ops.ternary import (
    AbsMax,
    Dequantize,
    FactoredQuantize,
    Quantize,
    RmsNormQuantize,
    ScaleQuantize,
)
from mmc.ir.types import DType


def primitive_outputs(body: Graph) -> tuple[Value, ...]:
    """The outputs of the body in primitive operations.

    An output that is a reduction without its axis keeps it, as a last axis of length 1: the bytes
    are the same.
    """
    new: dict[Value, Value] = {}
    kept: dict[Value, Value] = {}  # a value whose last axis was dropped -> the one that has it

    def moved_to(value: Value) -> Value:
        return new.get(value, value)

    for op in body.ops:
        moved = op.rebuild(moved_to)
        new |= zip(op.results, _lower(moved, kept), strict=True)
    outputs = (new[value] for value in body.values)
    return tuple(kept.get(value, value) for value in outputs)


def _lower(op: Op, kept: dict[Value, Value]) -> tuple[Value, ...]:
    match op:
        case Detach():
            return (op.x,)
        case RmsNorm():
            return (_scaled(Mul(op.x, RmsStatistic(op.x, op.eps)), op.gain),)
        case LayerNorm():
            return (_layer_norm(op),)
        case Softmax():
            raised = Exp(Sub(op.x, Max(op.x, op.axis, True)))
            return (Div(raised, Sum(raised, op.axis, True)),)
        case Dequantize():
            step = op.s if op.w is None else Mul(op.s, op.w)
            return (Mul(Cast(op.q, DType.F32), step),)
        case Quantize():
            return _quantized(op.x, op.by)
        case RmsNormQuantize():
            normed = Mul(op.x, RmsStatistic(op.x, op.eps))
            return _quantized(_scaled(normed, op.gain), op.by)
        case ScaleQuantize():
            return _quantized(_scaled(Mul(op.x, op.r), op.gain), op.by)
        case FactoredQuantize():
            return _quantized(_scaled(op.x, op.gain), op.by, op.r)
        case Reduction() if not op.keepdims and op.axis % op.x.type.rank == op.x.type.rank - 1:
            return (_drop_last_axis(type(op)(op.x, op.axis, True), kept),)
        case Unary() | Binary() | Where() if any(x in kept for x in op.operands):
            return (_drop_last_axis(op.rebuild(lambda x: _with_last_axis(x, kept)), kept),)
        case _:
            return op.results


def _scaled(x: Value, gain: Value | None) -> Value:
    return x if gain is None else Mul(x, gain)


def _layer_norm(op: LayerNorm) -> Value:
    centred = Sub(op.x, Mean(op.x, -1, True))
    variance = Mean(Square(centred), -1, True)
    y = _scaled(Mul(centred, Rsqrt(Add(variance, scalar(op.eps, op.x.type.dtype)))), op.gain)
    return y if op.bias is None else Add(y, op.bias)


def _quantized(x: Value, by: AbsMax, r: Value | None = None) -> tuple[Value, Value]:
    """Q = clamp(round(x * scale)), s = 1 / scale, with scale = range / max(max|x|, eps).

    With r: q = clamp(round(x * (r * scale))), with scale = range / max(max|x| * |r|, eps).
    """
    axes = (-1,) if by.granularity == "token" else range(x.type.rank - 1, -1, -1)
    largest: Value = Abs(x)
    for axis in axes:
        largest = Max(largest, axis, True)
    if r is not None:
        largest = Mul(largest, Abs(r))
    scale = Div(scalar(by.range), Maximum(largest, scalar(by.eps)))
    factor = scale if r is None else Mul(r, scale)
    q = Clamp(Round(Mul(x, factor), by.rounding), float(by.low), float(by.high))
    return Cast(q, DType.I8), Reciprocal(scale)


def _drop_last_axis(value: Value, kept: dict[Value, Value]) -> Value:
    dropped = Reshape(value, value.type.shape[:-1])
    kept[dropped] = value
    return dropped


def _with_last_axis(value: Value, kept: dict[Value, Value]) -> Value:
    if value in kept:
        return kept[value]
    return Reshape(value, (*value.type.shape, 1)) if value.type.shape else value
