"""One spelling for each meaning, so that later passes know one pattern instead of ten."""

from __future__ import annotations

from typing import Any

from mmc.ir.op import Op, Value
from mmc.ir.ops.norm import RmsNorm, RmsStatistic
from mmc.ir.ops.pointwise import (
    Add,
    Cast,
    Detach,
    Div,
    Floor,
    Mul,
    Pow,
    Reciprocal,
    Round,
    Rsqrt,
    Sigmoid,
    Silu,
    Sqrt,
    Square,
    Sub,
)  # fmt: skip
from mmc.ir.ops.reduce import ArgMax, CumSum, Max, Mean, Median, Reduction, Softmax, Sum
from mmc.ir.ops.shape import Concat, Expand, Gather, Pad, Permute, Reshape, Slice
from mmc.ir.ops.source import Constant
from mmc.ir.types import Dim, DType, Shape, TensorType
from mmc.passes.rewrite import Bindings, rule, rule_for, rule_if


@rule
def detach(x: Value) -> tuple[Value, Value]:
    """Gradients do not matter when a model is run."""
    return Detach(x) >> x


@rule_if(lambda found: found["x"].type.dtype is found["dtype"])
def cast_to_itself(x: Value, dtype: DType) -> tuple[Value, Value]:
    """The element type is already that one."""
    return Cast(x, dtype) >> x


@rule
def gather_then_cast(table: Value, ids: Value, dtype: DType) -> tuple[Value, Value]:
    """Widen the rows that are read instead of the whole table."""
    return Gather(Cast(table, dtype), ids) >> Cast(Gather(table, ids), dtype)


def _keeps_shape(found: Bindings) -> bool:
    """A constant that is dropped must not have widened the shape."""
    return found["one"].shape == ()


@rule_if(_keeps_shape)
def times_one(x: Value, one: TensorType) -> tuple[Value, Value]:
    """x * 1 is x."""
    return Mul(x, Constant(1.0, one)) >> x


@rule_if(_keeps_shape)
def over_one(x: Value, one: TensorType) -> tuple[Value, Value]:
    """x / 1 is x."""
    return Div(x, Constant(1.0, one)) >> x


@rule_if(_keeps_shape)
def plus_zero(x: Value, one: TensorType) -> tuple[Value, Value]:
    """x + 0 is x."""
    return Add(x, Constant(0.0, one)) >> x


@rule_if(_keeps_shape)
def minus_zero(x: Value, one: TensorType) -> tuple[Value, Value]:
    """x - 0 is x."""
    return Sub(x, Constant(0.0, one)) >> x


@rule
def reciprocal_times(x: Value, c: float, of: TensorType) -> tuple[Value, Value]:
    """c / x is how torch means its reciprocal(x) * c; the two differ by one rounding."""
    return Mul(Reciprocal(x), Constant(c, of)) >> Div(Constant(c, of), x)


@rule
def power_of_two(x: Value, of: TensorType) -> tuple[Value, Value]:
    """x ** 2 is x * x."""
    return Pow(x, Constant(2.0, of)) >> Square(x)


@rule
def times_itself(x: Value) -> tuple[Value, Value]:
    """x * x is a square."""
    return Mul(x, x) >> Square(x)


@rule
def sigmoid_weighted(x: Value) -> tuple[Value, Value]:
    """x * sigmoid(x) is SiLU."""
    return Mul(x, Sigmoid(x)) >> Silu(x)


@rule
def root_mean_square(x: Value, eps: float, of: TensorType) -> tuple[Value, Value]:
    """x * rsqrt(mean(x^2) + eps) is RMSNorm."""
    mean = Add(Mean(Square(x), -1, True), Constant(eps, of))
    return Mul(x, Rsqrt(mean)) >> RmsNorm(x, None, eps)


@rule
def over_root_mean_square(x: Value, eps: float, of: TensorType) -> tuple[Value, Value]:
    """x / sqrt(mean(x^2) + eps) is RMSNorm."""
    mean = Add(Mean(Square(x), -1, True), Constant(eps, of))
    return Div(x, Sqrt(mean)) >> RmsNorm(x, None, eps)


@rule
def times_its_statistic(x: Value, eps: float) -> tuple[Value, Value]:
    """x times its own statistic is RMSNorm."""
    return Mul(x, RmsStatistic(x, eps)) >> RmsNorm(x, None, eps)


@rule_if(lambda found: found["gain"].type.shape == found["x"].type.shape[-1:])
def norm_gain(x: Value, gain: Value, eps: float) -> tuple[Value, Value]:
    """The gain of an RMSNorm is part of it."""
    return Mul(RmsNorm(x, None, eps), gain) >> RmsNorm(x, gain, eps)


@rule
def floor_of_half_more(x: Value, of: TensorType) -> tuple[Value, Value]:
    """floor(x + 0.5) rounds, halves upwards."""
    return Floor(Add(x, Constant(0.5, of))) >> Round(x, "half_up")


@rule
def reshape_twice(x: Value, first: Shape, second: Shape) -> tuple[Value, Value]:
    """Only the last shape counts."""
    return Reshape(Reshape(x, first), second) >> Reshape(x, second)


@rule_if(lambda found: found["x"].type.shape == found["shape"])
def reshape_to_itself(x: Value, shape: Shape) -> tuple[Value, Value]:
    """The shape is already that one."""
    return Reshape(x, shape) >> x


@rule_if(lambda found: found["x"].type.shape == found["shape"])
def expand_to_itself(x: Value, shape: Shape) -> tuple[Value, Value]:
    """The shape is already that one."""
    return Expand(x, shape) >> x


@rule_if(lambda found: list(found["order"]) == sorted(found["order"]))
def permute_to_itself(x: Value, order: tuple[int, ...]) -> tuple[Value, Value]:
    """No axis moves."""
    return Permute(x, order) >> x


@rule_if(lambda found: found["x"].type.shape[found["axis"]] == found["length"])
def whole_slice(x: Value, axis: int, length: Dim) -> tuple[Value, Value]:
    """The slice is the whole axis."""
    return Slice(x, axis, 0, length, 1) >> x


@rule_for(Reshape, Expand, Permute, Slice)
def constant_moved(op: Any) -> Op | None:
    """One number over a shape is the same number over another."""
    return Constant(op.x.value, op.type) if isinstance(op.x, Constant) else None


@rule_for(Sum, Mean, Max, Median, ArgMax, Softmax, CumSum, Slice, Concat, Pad)
def last_axis(op: Any) -> Op | None:
    """The last axis is axis -1, whatever the rank."""
    rank = op.types[0].rank + (isinstance(op, Reduction) and not op.keepdims)
    if op.axis != rank - 1:
        return None
    return type(op)(*(-1 if name == "axis" else getattr(op, name) for name in op.field_names))


RULES = (
    last_axis, constant_moved,
    detach, cast_to_itself, gather_then_cast, times_one, over_one, plus_zero, minus_zero,
    reciprocal_times, power_of_two, times_itself, sigmoid_weighted, root_mean_square,
    over_root_mean_square, times_its_statistic, norm_gain, floor_of_half_more, reshape_twice,
    reshape_to_itself, expand_to_itself, permute_to_itself, whole_slice,
)  # fmt: skip
