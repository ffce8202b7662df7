"""ONNX's reductions, scans over axes and normalisations."""

# Table entries are lambdas.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable

from mmc.frontends.onnx_call import Call, Operand, Results, Translate, axis_of, scalar_like
from mmc.frontends.operands import (
    ReduceAxis,
    Unsupported,
    cast,
    index_select,
    lowest,
    operand,
    over,
    reshape,
)
from mmc.ir.op import Value
from mmc.ir.ops import pointwise as p
from mmc.ir.ops import reduce as r
from mmc.ir.ops.norm import LayerNorm, RmsNorm
from mmc.ir.ops.shape import Expand, Pad, Slice
from mmc.ir.ops.source import Iota
from mmc.ir.types import DType, Shape, numel

Pointwise = Callable[[Value], Value]


def _same(x: Value) -> Value:
    return x


def _reduce(op: ReduceAxis, before: Pointwise = _same, after: Pointwise = _same) -> Translate:
    def translate(call: Call) -> Value:
        x, axes = before(call.value(0)), call.axes(1)
        if not axes and call.attribute("noop_with_empty_axes", 0):
            return after(x)
        return after(over(op, x, axes or None, bool(call.attribute("keepdims", 1))))

    return translate


def _extreme(op: ReduceAxis) -> Translate:
    """The largest or smallest element, which an empty axis has not; of bool as numbers."""

    def translate(call: Call) -> Results:
        x = call.value(0)
        _refuse_empty(x)
        if x.type.dtype is not DType.BOOL:
            return _reduce(op)(call)
        return _reduce(op, lambda x: cast(x, DType.I32), lambda y: cast(y, DType.BOOL))(call)

    return translate


def _refuse_empty(x: Value) -> None:
    if 0 in x.type.shape:
        raise Unsupported(f"the largest element of {x.type}, which has none")


def _log_sum_exp(call: Call) -> Value:
    """The largest element is taken out before e^x, and put back after the logarithm."""
    x, axes = call.value(0), call.axes(1)
    _refuse_empty(x)
    if not axes and call.attribute("noop_with_empty_axes", 0):
        return x
    largest = over(r.Max, x, axes, True)
    total = p.Log(over(r.Sum, p.Exp(p.Sub(x, largest)), axes, True))
    whole = p.Add(total, largest)
    return whole if call.attribute("keepdims", 1) else over(r.Sum, whole, axes, False)


def _index(sign: Pointwise) -> Translate:
    def translate(call: Call) -> Value:
        if call.attribute("select_last_index", 0):
            raise Unsupported("select_last_index: the IR takes the first of equal elements")
        x = sign(call.value(0))
        return r.ArgMax(
            x, axis_of(x, call.attribute("axis", 0)), bool(call.attribute("keepdims", 1))
        )

    return translate


def flipped(x: Value, axis: int) -> Value:
    """The elements of one axis in the opposite order."""
    size = x.type.shape[axis]
    return index_select(x, axis, p.Sub(operand(size - 1, DType.I64), Iota(size)))


def _cum_sum(call: Call) -> Value:
    x = call.value(0)
    axis = axis_of(x, call.ints(1)[0])
    backwards = call.attribute("reverse", 0)
    x = flipped(x, axis) if backwards else x
    if call.attribute("exclusive", 0):
        x = Slice(Pad(x, axis, 1, 0), axis, 0, x.type.shape[axis])
    summed = r.CumSum(x, axis)
    return flipped(summed, axis) if backwards else summed


def _along(op: Callable[[Value, int], Value]) -> Translate:
    """Before opset 13 all axes from `axis` on, 1 by default, were one."""

    def translate(call: Call) -> Value:
        x, old = call.value(), call.opset < 13
        axis = axis_of(x, call.attribute("axis", 1 if old else -1))
        if not old:
            return op(x, axis)
        rows, columns = numel(x.type.shape[:axis]), numel(x.type.shape[axis:])
        return reshape(op(reshape(x, (rows, columns)), 1), x.type.shape)

    return translate


def _log_softmax(x: Value, axis: int) -> Value:
    shifted = p.Sub(x, r.Max(x, axis, True))
    return p.Sub(shifted, p.Log(r.Sum(p.Exp(shifted), axis, True)))


def _flat(call: Call, x: Value) -> tuple[Value, Shape]:
    """The axes that are normalised as one, and the shape of one number for each row."""
    axis = axis_of(x, call.attribute("axis", -1))
    front, back = x.type.shape[:axis], x.type.shape[axis:]
    return reshape(x, (*front, numel(back))), (*front, *(1,) * len(back))


def _parameter(call: Call, index: int, x: Value, flat: Value) -> Value | None:
    """A gain or bias for each column of the flat rows."""
    found = call.optional(index)
    if found is None:
        return None
    axis = axis_of(x, call.attribute("axis", -1))
    wide = x.type.shape[axis:]
    found = found if found.type.shape == wide else Expand(found, wide)
    return cast(reshape(found, flat.type.shape[-1:]), DType.F32)


def _layer_norm(call: Call) -> list[Operand | None]:
    given = call.value(0)
    x, ones = _flat(call, cast(given, DType.F32))
    eps = float(call.attribute("epsilon", 1e-5))
    gain, bias = (_parameter(call, i, given, x) for i in (1, 2))
    y = cast(reshape(LayerNorm(x, gain, bias, eps), given.type.shape), given.type.dtype)
    if len(call.node.outputs) == 1:
        return [y]
    mean = r.Mean(x, -1, True)
    spread = r.Mean(p.Square(p.Sub(x, mean)), -1, True)
    inverse = p.Rsqrt(p.Add(spread, scalar_like(eps, spread)))
    return [y, reshape(mean, ones), reshape(inverse, ones)]


def _rms_norm(call: Call) -> list[Operand | None]:
    given = call.value(0)
    x, _ = _flat(call, cast(given, DType.F32))
    gain = _parameter(call, 1, given, x)
    y = RmsNorm(x, gain, float(call.attribute("epsilon", 1e-5)))
    if len([o for o in call.node.outputs if o.name]) > 1:
        raise Unsupported("the statistic as a second output")
    return [cast(reshape(y, given.type.shape), given.type.dtype)]


def _skip_rms_norm(call: Call) -> list[Operand | None]:
    """onnxruntime's: the sum of the first two inputs, normalised; the sum is the fourth output."""
    total = p.Add(call.value(0), call.value(1))
    bias = call.optional(3)
    total = total if bias is None else p.Add(total, bias)
    gain, eps = call.value(2), float(call.attribute("epsilon", 1e-5))
    return [RmsNorm(total, gain, eps), None, None, total]


TABLE: dict[str, Translate] = {
    "ArgMax": _index(_same),
    "ArgMin": _index(p.Neg),
    "CumSum": _cum_sum,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _along(_log_softmax),
    "RMSNormalization": _rms_norm,
    "ReduceL1": _reduce(r.Sum, p.Abs),
    "ReduceL2": _reduce(r.Sum, p.Square, p.Sqrt),
    "ReduceLogSum": _reduce(r.Sum, after=p.Log),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _extreme(r.Max),
    "ReduceMean": _reduce(r.Mean),
    "ReduceMin": _extreme(lowest),
    "ReduceSum": _reduce(r.Sum),
    "ReduceSumSquare": _reduce(r.Sum, p.Square),
    "SimplifiedLayerNormalization": _rms_norm,
    "Softmax": _along(r.Softmax),
    "com.microsoft.SkipSimplifiedLayerNormalization": _skip_rms_norm,
}
