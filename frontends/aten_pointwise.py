"""Aten's element-wise operations."""

# Table entries are lambdas, called with whatever torch's schema says.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmc.frontends.aten_call import Call, Translate, common_dtype
from mmc.frontends.operands import Operand, Unsupported, cast, operand
from mmc.ir.op import Op, Value
from mmc.ir.ops import logic
from mmc.ir.ops import pointwise as p
from mmc.ir.ops.source import Constant, Weight
from mmc.ir.types import DType


def _unary(op: Callable[[Value], Value]) -> Translate:
    """Computed in the element type of the result: integers become floats where torch says so."""
    return lambda call, x, *_: op(call.operand(x))


def _binary(op: Callable[[Value, Value], Value]) -> Translate:
    return lambda call, x, y, *_: op(call.operand(x), call.operand(y))


def _compare(op: Callable[[Value, Value], Value]) -> Translate:
    def translate(call: Call, x: Operand, y: Operand) -> Value:
        dtype = common_dtype(x, y)
        return op(operand(x, dtype), operand(y, dtype))

    return translate


def _logical(op: Callable[[Value, Value], Value]) -> Translate:
    """Any number counts as true unless it is zero."""

    def translate(call: Call, x: Value, y: Value) -> Value:
        return op(_truth(x), _truth(y))

    return translate


def _truth(x: Value) -> Value:
    return x if x.type.dtype is DType.BOOL else logic.NotEqual(x, operand(0, x.type.dtype))


def _scaled(call: Call, y: Operand, alpha: Operand) -> Value:
    y = call.operand(y)
    return y if alpha == 1 else p.Mul(y, call.operand(alpha))


def _add(call: Call, x: Operand, y: Operand, alpha: Operand = 1) -> Value:
    return p.Add(call.operand(x), _scaled(call, y, alpha))


def _sub(call: Call, x: Operand, y: Operand, alpha: Operand = 1) -> Value:
    return p.Sub(call.operand(x), _scaled(call, y, alpha))


def _rsub(call: Call, x: Operand, y: Operand, alpha: Operand = 1) -> Value:
    return p.Sub(call.operand(y), _scaled(call, x, alpha))


def _div(call: Call, x: Operand, y: Operand, rounding: str | None = None) -> Value:
    quotient = p.Div(call.operand(x), call.operand(y))
    if rounding is None or (rounding == "floor" and not call.dtype.is_float):
        return quotient
    if rounding == "floor":
        return p.Floor(quotient)
    if call.dtype.is_float:
        return _trunc(quotient)
    raise Unsupported("integer division towards zero")


def _trunc(x: Value) -> Value:
    return p.Mul(p.Sign(x), p.Floor(p.Abs(x)))


def _floor_divide(call: Call, x: Operand, y: Operand) -> Value:
    return _div(call, x, y, "floor")


def _remainder(call: Call, x: Operand, y: Operand) -> Value:
    """Of the division towards minus infinity: it has the sign of y."""
    x, y = call.operand(x), call.operand(y)
    return p.Sub(x, p.Mul(_div(call, x, y, "floor"), y))


POWERS: dict[float, Callable[[Value], Value]] = {
    0.5: p.Sqrt,
    -0.5: p.Rsqrt,
    1: lambda x: x,
    -1: p.Reciprocal,
    2: p.Square,
    3: lambda x: p.Mul(p.Square(x), x),
}


def _pow(call: Call, x: Operand, y: Operand) -> Value:
    if isinstance(y, int | float) and y in POWERS:
        return POWERS[y](call.operand(x))
    return p.Pow(call.operand(x), call.operand(y))


def _clamp(call: Call, x: Value, low: float | None = None, high: float | None = None) -> Value:
    kind = float if call.dtype.is_float else int
    bounds = (None if bound is None else kind(bound) for bound in (low, high))
    return p.Clamp(call.operand(x), *bounds)


def _clamp_max(call: Call, x: Value, high: float) -> Value:
    return _clamp(call, x, None, high)


def _clamp_tensor(call: Call, x: Value, low: Value | None, high: Value | None) -> Value:
    x = call.operand(x)
    x = x if low is None else p.Maximum(x, call.operand(low))
    return x if high is None else p.Minimum(x, call.operand(high))


def _where(call: Call, condition: Value, x: Operand, y: Operand) -> Value:
    return logic.Where(_truth(condition), call.operand(x), call.operand(y))


def _masked_fill(call: Call, x: Value, mask: Value, value: Operand) -> Value:
    return logic.Where(_truth(mask), call.operand(value), call.operand(x))


def _same(call: Call, x: Value, *_: Any) -> Value:
    return x


def _detach(call: Call, x: Value) -> Value:
    # A gradient never reached a constant: marking it would only stand in a pass's way.
    return x if isinstance(x, Constant | Weight) else p.Detach(x)


def _convert(call: Call, x: Value, *_: Any) -> Value:
    return cast(x, call.dtype)


def _dropout(call: Call, x: Value, probability: float, train: bool) -> Value:
    if train and probability:
        raise Unsupported("dropout in training mode: call .eval() first")
    return x


def _bitwise_not(call: Call, x: Value) -> Value:
    return logic.Not(x) if call.dtype is DType.BOOL else p.Sub(operand(-1, call.dtype), x)


def _logaddexp(call: Call, x: Value, y: Value) -> Value:
    x, y = call.operand(x), call.operand(y)
    return p.Add(p.Maximum(x, y), p.Softplus(p.Neg(p.Abs(p.Sub(x, y)))))


def _lerp(call: Call, x: Value, y: Value, weight: Operand) -> Value:
    return p.Add(x, p.Mul(call.operand(weight), p.Sub(y, x)))


def _addcmul(call: Call, x: Value, y: Value, z: Value, value: Operand = 1) -> Value:
    return _add(call, x, p.Mul(call.operand(y), call.operand(z)), value)


def _addcdiv(call: Call, x: Value, y: Value, z: Value, value: Operand = 1) -> Value:
    return _add(call, x, p.Div(call.operand(y), call.operand(z)), value)


def _softplus(call: Call, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    # Above the threshold torch returns x, which differs from ln(1 + e^x) by less than 3e-9.
    if beta != 1 or threshold < 20:
        raise Unsupported(f"softplus with beta {beta} and threshold {threshold}")
    return p.Softplus(x)


def _gelu(call: Call, x: Value, approximate: str = "none") -> Value:
    return p.Gelu(x, approximate)


def _log_sigmoid(call: Call, x: Value) -> Value:
    return p.Neg(p.Softplus(p.Neg(x)))


UNARY: dict[str, Callable[[Value], Value]] = {
    "abs": p.Abs,
    "ceil": lambda x: p.Neg(p.Floor(p.Neg(x))),
    "cos": p.Cos,
    "erf": p.Erf,
    "exp": p.Exp,
    "floor": p.Floor,
    "log": p.Log,
    "log1p": lambda x: p.Log(p.Add(x, operand(1, x.type.dtype))),
    "logical_not": logic.Not,
    "neg": p.Neg,
    "reciprocal": p.Reciprocal,
    "relu": p.Relu,
    "round": p.Round,
    "rsqrt": p.Rsqrt,
    "sgn": p.Sign,
    "sigmoid": p.Sigmoid,
    "sign": p.Sign,
    "silu": p.Silu,
    "sin": p.Sin,
    "sqrt": p.Sqrt,
    "square": p.Square,
    "tanh": p.Tanh,
    "trunc": _trunc,
}
BINARY: dict[str, type[Op]] = {
    "mul": p.Mul,
    "maximum": p.Maximum,
    "minimum": p.Minimum,
    "bitwise_and": logic.BitAnd,
    "bitwise_or": logic.BitOr,
    "bitwise_right_shift": logic.ShiftRight,
    "__and__": logic.BitAnd,
    "__or__": logic.BitOr,
    "__rshift__": logic.ShiftRight,
}
COMPARE: dict[str, type[Op]] = {
    "eq": logic.Equal,
    "ne": logic.NotEqual,
    "lt": logic.Less,
    "le": logic.LessEqual,
    "gt": logic.Greater,
    "ge": logic.GreaterEqual,
}
LOGICAL: dict[str, type[Op]] = {
    "logical_and": logic.BitAnd,
    "logical_or": logic.BitOr,
    "logical_xor": logic.NotEqual,
}
OTHER: dict[str, Translate] = {
    "add": _add,
    "addcdiv": _addcdiv,
    "addcmul": _addcmul,
    "alias": _same,
    "bitwise_not": _bitwise_not,
    "clamp": _clamp,
    "clamp_max": _clamp_max,
    "clamp_min": _clamp,
    "clone": _same,
    "contiguous": _same,
    "detach": _detach,
    "detach_": _detach,
    "div": _div,
    "dropout": _dropout,
    "floor_divide": _floor_divide,
    "gelu": _gelu,
    "hardtanh": _clamp,
    "lerp": _lerp,
    "lift_fresh_copy": _same,
    "log_sigmoid": _log_sigmoid,
    "logaddexp": _logaddexp,
    "masked_fill": _masked_fill,
    "pow": _pow,
    "remainder": _remainder,
    "rsub": _rsub,
    "softplus": _softplus,
    "sub": _sub,
    "to": _convert,
    "_to_copy": _convert,
    "type_as": _convert,
    "where": _where,
}

TABLE: dict[str, Translate] = {
    **{f"aten.{name}": _unary(op) for name, op in UNARY.items()},
    **{f"aten.{name}": _binary(op) for name, op in BINARY.items()},
    **{f"aten.{name}": _compare(op) for name, op in COMPARE.items()},
    **{f"aten.{name}": _logical(op) for name, op in LOGICAL.items()},
    **{f"aten.{name}": translate for name, translate in OTHER.items()},
    "aten.logical_not": lambda call, x: logic.Not(x),
    "aten.clamp.Tensor": _clamp_tensor,
    "aten.clamp_min.Tensor": _binary(p.Maximum),
    "aten.clamp_max.Tensor": _binary(p.Minimum),
    "mmc.round_half_away": lambda call, x: p.Round(x, "half_away"),
}
