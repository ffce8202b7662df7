"""Aten's reductions and scans over axes."""

# Table entries are lambdas, called with whatever torch's schema says.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmc.frontends.aten_call import Call, Translate
from mmc.frontends.operands import Axes, ReduceAxis, Unsupported, axis_of, lowest, operand, over
from mmc.ir.op import Value
from mmc.ir.ops import pointwise as p
from mmc.ir.ops import reduce as r
from mmc.ir.types import numel


def _reduce(op: ReduceAxis) -> Translate:
    """Computed in the element type of the result."""

    def translate(
        call: Call, x: Value, axes: Axes = None, keepdims: bool = False, *_: Any
    ) -> Value:
        return over(op, call.operand(x), axes, keepdims)

    return translate


def _whole(op: ReduceAxis) -> Translate:
    """Over all elements: the second argument, where there is one, is an element type."""
    return lambda call, x, *_: over(op, call.operand(x), None, False)


def _with_index(op: ReduceAxis, index: ReduceAxis | None) -> Translate:
    def translate(
        call: Call, x: Value, axis: int, keepdims: bool = False
    ) -> tuple[Value | None, ...]:
        axis = axis_of(x, axis)
        return op(x, axis, keepdims), None if index is None else index(x, axis, keepdims)

    return translate


def _index_of_lowest(x: Value, axis: int, keepdims: bool) -> Value:
    return r.ArgMax(p.Neg(x), axis, keepdims)


def _argmax(call: Call, x: Value, axis: int | None = None, keepdims: bool = False) -> Value:
    return over(r.ArgMax, x, axis, keepdims)


def _along(op: Callable[[Value, int], Value]) -> Translate:
    def translate(call: Call, x: Value, axis: int, *_: Any) -> Value:
        return op(call.operand(x), axis_of(x, axis))

    return translate


def _log_softmax(call: Call, x: Value, axis: int, *_: Any) -> Value:
    x = call.operand(x)
    shifted = p.Sub(x, r.Max(x, axis, True))
    return p.Sub(shifted, p.Log(r.Sum(p.Exp(shifted), axis, True)))


def _vector_norm(
    call: Call, x: Value, order: float = 2, axes: Axes = None, keepdims: bool = False, *_: Any
) -> Value:
    x = call.operand(x)
    if order == 2:
        return p.Sqrt(over(r.Sum, p.Square(x), axes, keepdims))
    if order == 1:
        return over(r.Sum, p.Abs(x), axes, keepdims)
    if order == float("inf"):
        return over(r.Max, p.Abs(x), axes, keepdims)
    raise Unsupported(f"a norm of order {order}")


def _variance(
    call: Call, x: Value, axes: Axes = None, correction: float | None = None, keepdims: bool = False
) -> Value:
    """The mean squared distance from the mean, over n - correction elements."""
    axes = axes or list(range(x.type.rank))
    centred = p.Sub(x, over(r.Mean, x, axes, True))
    spread = over(r.Mean, p.Square(centred), axes, keepdims)
    less = 1 if correction is None else correction
    count = numel(tuple(x.type.shape[a] for a in ([axes] if isinstance(axes, int) else axes)))
    if less == 0:
        return spread
    if not isinstance(count, int):
        raise Unsupported("an unbiased variance over a symbolic size")
    return p.Mul(spread, operand(count / (count - less), x.type.dtype))


TABLE: dict[str, Translate] = {
    "aten.sum": _reduce(r.Sum),
    "aten.sum.default": _whole(r.Sum),
    "aten.mean": _reduce(r.Mean),
    "aten.mean.default": _whole(r.Mean),
    "aten.amax": _reduce(r.Max),
    "aten.amin": _reduce(lowest),
    "aten.max.default": _whole(r.Max),
    "aten.min.default": _whole(lowest),
    "aten.max.dim": _with_index(r.Max, r.ArgMax),
    "aten.min.dim": _with_index(lowest, _index_of_lowest),
    "aten.max.other": lambda call, x, y: p.Maximum(call.operand(x), call.operand(y)),
    "aten.min.other": lambda call, x, y: p.Minimum(call.operand(x), call.operand(y)),
    "aten.median.default": _whole(r.Median),
    "aten.median.dim": _with_index(r.Median, None),
    "aten.argmax": _argmax,
    "aten.softmax": _along(r.Softmax),
    "aten._softmax": _along(r.Softmax),
    "aten.log_softmax": _log_softmax,
    "aten._log_softmax": _log_softmax,
    "aten.cumsum": _along(r.CumSum),
    "aten.linalg_vector_norm": _vector_norm,
    "aten.var.correction": _variance,
    "aten.std.correction": lambda call, *args: p.Sqrt(_variance(call, *args)),
}
