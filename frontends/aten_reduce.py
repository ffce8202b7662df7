"""Aten's reductions and scans over axes."""

# Table entries are lambdas, called with whatever torch's schema says.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmc.frontends.aten_call import Call, Translate, Unsupported, axis_of, operand, reshape
from mmc.ir.op import Value
from mmc.ir.ops import pointwise as p
from mmc.ir.ops import reduce as r
from mmc.ir.types import numel

Axes = Sequence[int] | int | None
ReduceAxis = Callable[[Value, int, bool], Value]


def _over(op: ReduceAxis, x: Value, axes: Axes, keepdims: bool) -> Value:
    """One axis at a time; all axes at once are one flat row."""
    if isinstance(axes, int):
        axes = (axes,)
    if not axes or len({axis_of(x, a) for a in axes}) == x.type.rank > 1:
        flat = op(reshape(x, (numel(x.type.shape),)), 0, False)
        return reshape(flat, (1,) * x.type.rank) if keepdims else flat
    if x.type.rank == 0:
        return x
    for axis in sorted((axis_of(x, a) for a in axes), reverse=True):
        x = op(x, axis, keepdims)
    return x


def _reduce(op: ReduceAxis) -> Translate:
    """Computed in the element type of the result."""

    def translate(
        call: Call, x: Value, axes: Axes = None, keepdims: bool = False, *_: Any
    ) -> Value:
        return _over(op, call.operand(x), axes, keepdims)

    return translate


def _lowest(x: Value, axis: int, keepdims: bool) -> Value:
    return p.Neg(r.Max(p.Neg(x), axis, keepdims))


def _whole(op: ReduceAxis) -> Translate:
    """Over all elements: the second argument, where there is one, is an element type."""
    return lambda call, x, *_: _over(op, call.operand(x), None, False)


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
    return _over(r.ArgMax, x, axis, keepdims)


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
        return p.Sqrt(_over(r.Sum, p.Square(x), axes, keepdims))
    if order == 1:
        return _over(r.Sum, p.Abs(x), axes, keepdims)
    if order == float("inf"):
        return _over(r.Max, p.Abs(x), axes, keepdims)
    raise Unsupported(f"a norm of order {order}")


def _variance(
    call: Call, x: Value, axes: Axes = None, correction: float | None = None, keepdims: bool = False
) -> Value:
    """The mean squared distance from the mean, over n - correction elements."""
    axes = axes or list(range(x.type.rank))
    centred = p.Sub(x, _over(r.Mean, x, axes, True))
    spread = _over(r.Mean, p.Square(centred), axes, keepdims)
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
    "aten.amin": _reduce(_lowest),
    "aten.max.default": _whole(r.Max),
    "aten.min.default": _whole(_lowest),
    "aten.max.dim": _with_index(r.Max, r.ArgMax),
    "aten.min.dim": _with_index(_lowest, _index_of_lowest),
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
