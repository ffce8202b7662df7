"""ONNX's element-wise operators."""

# Table entries are lambdas.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

from mmc.frontends.onnx_call import Call, Operand, Translate, floats, scalar_like
from mmc.frontends.operands import Unsupported, cast, operand, reshape
from mmc.ir.op import Op, Value
from mmc.ir.ops import logic
from mmc.ir.ops import pointwise as p
from mmc.ir.ops.source import Constant, Iota
from mmc.ir.types import DType


def _binary(op: Callable[[Value, Value], Value]) -> Translate:
    return lambda call: op(call.value(0), call.value(1))


def _variadic(op: Callable[[Value, Value], Value]) -> Translate:
    return lambda call: reduce(op, call.values)


def _bound(op: type[p.Maximum] | type[p.Minimum], x: Value, y: Value) -> Value:
    """The larger or smaller one; with a number it is a clamp, as exporters write it."""
    for value, other in ((x, y), (y, x)):
        if isinstance(other, Constant) and not other.type.shape:
            low = other.value if op is p.Maximum else None
            return p.Clamp(value, low, None if op is p.Maximum else other.value)
    return op(x, y)


def trunc(x: Value) -> Value:
    return p.Mul(p.Sign(x), p.Floor(p.Abs(x)))


def ceil(x: Value) -> Value:
    return p.Neg(p.Floor(p.Neg(x)))


def _div(call: Call) -> Value:
    """Integers are divided towards zero, which the IR's `div` does for those above zero alone."""
    x, y = call.value(0), call.value(1)
    if x.type.dtype not in (DType.I8, DType.I32, DType.I64):
        return p.Div(x, y)
    return p.Mul(p.Mul(p.Sign(x), p.Sign(y)), p.Div(p.Abs(x), p.Abs(y)))


def _mod(call: Call) -> Value:
    """fmod=0: the sign of y; fmod=1: the sign of x."""
    x, y = call.value(0), call.value(1)
    if not call.attribute("fmod", 0):
        if x.type.dtype.is_float:
            raise Unsupported("fmod=0 of floats")
        return p.Sub(x, p.Mul(p.Div(x, y), y))
    whole = trunc(p.Div(x, y)) if x.type.dtype.is_float else _div(call)
    return p.Sub(x, p.Mul(whole, y))


_POWERS: dict[float, Callable[[Value], Value]] = {
    0.5: p.Sqrt, -0.5: p.Rsqrt, 1: lambda x: x, -1: p.Reciprocal, 2: p.Square,
    3: lambda x: p.Mul(p.Square(x), x),
}  # fmt: skip


def _pow(call: Call) -> Value:
    """The result has the element type of x."""
    x, power = call.value(0), call.number(1)
    if x.type.dtype.is_float:
        if power in _POWERS and not call.value(1).type.shape:
            return _POWERS[power](x)
        return p.Pow(x, cast(call.value(1), x.type.dtype))
    wide = DType.F32 if call.value(1).type.dtype.is_float else x.type.dtype
    return cast(p.Pow(cast(x, wide), cast(call.value(1), wide)), x.type.dtype)


def _clip(call: Call) -> Value:
    x, low, high = call.value(0), call.number(1), call.number(2)
    if call.opset < 11:
        return p.Clamp(x, call.attribute("min"), call.attribute("max"))
    if call.has(1) == (low is not None) and call.has(2) == (high is not None):
        if low is not None and high is not None and low > high:
            low = high
        return p.Clamp(x, low, high)
    x = p.Maximum(x, call.value(1)) if call.has(1) else x
    return p.Minimum(x, call.value(2)) if call.has(2) else x


def _cast(call: Call) -> Value:
    x, dtype = call.value(0), call.dtype("to")
    if dtype is DType.BOOL and isinstance(x, Constant):
        return Constant(bool(x.value), x.type.with_dtype(dtype))
    return cast(x, dtype)


def _gelu(call: Call) -> Value:
    return p.Gelu(call.value(), call.attribute("approximate", "none"))


def _between_zero_and_one(x: Value, alpha: float, beta: float) -> Value:
    return p.Clamp(p.Add(p.Mul(x, scalar_like(alpha, x)), scalar_like(beta, x)), 0.0, 1.0)


def _expm1(x: Value, alpha: float) -> Value:
    """alpha * (e^x - 1)."""
    return p.Mul(scalar_like(alpha, x), p.Sub(p.Exp(x), scalar_like(1.0, x)))


def _kinked(x: Value, below: Value) -> Value:
    """x where it is above zero, else `below`."""
    return logic.Where(logic.Greater(x, scalar_like(0, x)), x, below)


def _elu(call: Call) -> Value:
    x = floats(call.value())
    return cast(_kinked(x, _expm1(x, call.attribute("alpha", 1.0))), call.value().type.dtype)


def _selu(call: Call) -> Value:
    x = call.value()
    alpha, gamma = call.attribute("alpha", 1.67326319), call.attribute("gamma", 1.05070102)
    return p.Mul(scalar_like(gamma, x), _kinked(x, _expm1(x, alpha)))


def _celu(call: Call) -> Value:
    given, alpha = call.value(), call.attribute("alpha", 1.0)
    x = floats(given)
    below = _expm1(p.Div(x, scalar_like(alpha, x)), alpha)
    return cast(_kinked(x, below), given.type.dtype)


def _leaky(call: Call) -> Value:
    x = call.value()
    return _kinked(x, p.Mul(x, scalar_like(call.attribute("alpha", 0.01), x)))


def _prelu(call: Call) -> Value:
    x = call.value(0)
    return _kinked(x, p.Mul(x, call.value(1)))


def _thresholded(call: Call) -> Value:
    x, alpha = call.value(), call.attribute("alpha", 1.0)
    return logic.Where(logic.Greater(x, scalar_like(alpha, x)), x, scalar_like(0, x))


def _swish(call: Call) -> Value:
    x, alpha = call.value(), call.attribute("alpha", 1.0)
    return p.Silu(x) if alpha == 1 else p.Mul(x, p.Sigmoid(p.Mul(scalar_like(alpha, x), x)))


def _trilu(call: Call) -> Value:
    x = call.value(0)
    diagonal = call.ints(1)[0] if call.has(1) else 0
    rows, columns = x.type.shape[-2:]
    keep = logic.GreaterEqual if call.attribute("upper", 1) else logic.LessEqual
    row = reshape(Iota(rows, diagonal), (rows, 1))
    return logic.Where(keep(Iota(columns), row), x, scalar_like(0, x))


def _dropout(call: Call) -> list[Operand | None]:
    if call.has(2) and call.number(2) is not False:
        raise Unsupported("dropout in training mode, or in a mode that is not known")
    x = call.value(0)
    mask = Constant(True, x.type.with_dtype(DType.BOOL)) if len(call.node.outputs) > 1 else None
    return [x, mask]


def _shift(call: Call) -> Value:
    if call.attribute("direction") != "RIGHT":
        raise Unsupported("a shift to the left")
    return logic.ShiftRight(call.value(0), call.value(1))


def _mean(call: Call) -> Value:
    total = reduce(p.Add, call.values)
    return p.Div(total, scalar_like(len(call.values), total))


def _infinite(call: Call) -> Value:
    x = call.value()
    if not (call.attribute("detect_negative", 1) and call.attribute("detect_positive", 1)):
        sign = 1.0 if call.attribute("detect_positive", 1) else -1.0
        return logic.Equal(x, scalar_like(sign * math.inf, x))
    return logic.Equal(p.Abs(x), scalar_like(math.inf, x))


def _half_difference(x: Value, sign: type[Op]) -> Value:
    return p.Mul(sign(p.Exp(x), p.Exp(p.Neg(x))), scalar_like(0.5, x))


UNARY: dict[str, Callable[[Value], Value]] = {
    "Abs": p.Abs, "Ceil": ceil, "Cos": p.Cos, "Erf": p.Erf, "Exp": p.Exp, "Floor": p.Floor,
    "Log": p.Log, "Neg": p.Neg, "Not": logic.Not, "Reciprocal": p.Reciprocal, "Relu": p.Relu,
    "Round": p.Round, "Sigmoid": p.Sigmoid, "Sign": p.Sign, "Sin": p.Sin, "Softplus": p.Softplus,
    "Sqrt": p.Sqrt, "Tanh": p.Tanh,
    "IsNaN": lambda x: logic.NotEqual(x, x),
    "Tan": lambda x: p.Div(p.Sin(x), p.Cos(x)),
    "Sinh": lambda x: _half_difference(x, p.Sub),
    "Cosh": lambda x: _half_difference(x, p.Add),
    "Softsign": lambda x: p.Div(x, p.Add(scalar_like(1, x), p.Abs(x))),
    "Mish": lambda x: p.Mul(x, p.Tanh(p.Softplus(x))),
    "HardSwish": lambda x: p.Mul(x, _between_zero_and_one(x, 1 / 6, 0.5)),
}  # fmt: skip
BINARY: dict[str, type[Op]] = {
    "Add": p.Add, "Sub": p.Sub, "Mul": p.Mul, "And": logic.BitAnd, "Or": logic.BitOr,
    "Xor": logic.NotEqual, "BitwiseAnd": logic.BitAnd, "BitwiseOr": logic.BitOr,
    "Equal": logic.Equal, "Greater": logic.Greater, "GreaterOrEqual": logic.GreaterEqual,
    "Less": logic.Less, "LessOrEqual": logic.LessEqual,
}  # fmt: skip

TABLE: dict[str, Translate] = {
    **{name: (lambda call, op=op: op(call.value())) for name, op in UNARY.items()},
    **{name: _binary(op) for name, op in BINARY.items()},
    "BitShift": _shift,
    "Cast": _cast,
    "CastLike": lambda call: cast(call.value(0), call.value(1).type.dtype),
    "Celu": _celu,
    "Clip": _clip,
    "Div": _div,
    "Dropout": _dropout,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": lambda call: _between_zero_and_one(
        call.value(), call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    ),
    "IsInf": _infinite,
    "LeakyRelu": _leaky,
    "Max": _variadic(lambda x, y: _bound(p.Maximum, x, y)),
    "Mean": _mean,
    "Min": _variadic(lambda x, y: _bound(p.Minimum, x, y)),
    "Mod": _mod,
    "PRelu": _prelu,
    "Pow": _pow,
    "Selu": _selu,
    "Sum": _variadic(p.Add),
    "Swish": _swish,
    "ThresholdedRelu": _thresholded,
    "Trilu": _trilu,
    "Where": lambda call: logic.Where(call.value(0), call.value(1), call.value(2)),
    "com.microsoft.QuickGelu": lambda call: p.Mul(
        call.value(),
        p.Sigmoid(p.Mul(operand(call.attribute("alpha", 1.702), DType.F32), call.value())),
    ),
}
