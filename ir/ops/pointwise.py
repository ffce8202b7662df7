"""Element by element: a result reads its operands at its own index, broadcast as in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from mmc.ir.op import Op, Value
from mmc.ir.types import DType, TensorType, broadcast

_erf = np.vectorize(math.erf, otypes=[np.float64])


def round_half_away(x: np.ndarray) -> np.ndarray:
    """Round to the nearest integer, halves away from zero (C's `round`)."""
    whole = np.trunc(x)
    return whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), 0).astype(x.dtype)


ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "half_even": np.rint,
    "half_away": round_half_away,
    "half_up": lambda x: np.floor(x + x.dtype.type(0.5)),
}


class Unary(Op):
    """One operand; the result has its shape and, unless said otherwise, its dtype."""

    x: Value
    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        return self.x.type


class FloatUnary(Unary):
    """One operand of floats."""

    def infer(self) -> TensorType:
        self.require(self.x.type.dtype.is_float, f"x is {self.x.type.dtype}, not a float")
        return self.x.type


class Detach(Unary, mnemonic="detach"):
    """y = x; a mark left by automatic differentiation."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x


class Neg(Unary, mnemonic="neg"):
    """y = -x."""

    reference = staticmethod(np.negative)


class Abs(Unary, mnemonic="abs"):
    """y = |x|."""

    reference = staticmethod(np.abs)


class Exp(FloatUnary, mnemonic="exp"):
    """y = e^x."""

    reference = staticmethod(np.exp)


class Log(FloatUnary, mnemonic="log"):
    """y = ln x."""

    reference = staticmethod(np.log)


class Sqrt(FloatUnary, mnemonic="sqrt"):
    """y = square root of x."""

    reference = staticmethod(np.sqrt)


class Rsqrt(FloatUnary, mnemonic="rsqrt"):
    """y = 1 / sqrt(x)."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return (1 / np.sqrt(x)).astype(x.dtype)


class Reciprocal(FloatUnary, mnemonic="reciprocal"):
    """y = 1 / x."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return (1 / x).astype(x.dtype)


class Square(Unary, mnemonic="square"):
    """y = x * x."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x * x


class Sigmoid(FloatUnary, mnemonic="sigmoid"):
    """y = 1 / (1 + e^-x)."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        e = np.exp(-np.abs(x))
        return (np.where(x >= 0, 1, e) / (1 + e)).astype(x.dtype)


class Silu(FloatUnary, mnemonic="silu"):
    """y = x * sigmoid(x)."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        e = np.exp(-np.abs(x))
        return (x * np.where(x >= 0, 1, e) / (1 + e)).astype(x.dtype)


class Tanh(FloatUnary, mnemonic="tanh"):
    """y = (e^x - e^-x) / (e^x + e^-x)."""

    reference = staticmethod(np.tanh)


class Relu(Unary, mnemonic="relu"):
    """y = max(x, 0)."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)


class Gelu(FloatUnary, mnemonic="gelu"):
    """y = x * Phi(x); approximate="tanh" is the polynomial form, "none" the error function."""

    approximate: str = "none"

    def infer(self) -> TensorType:
        self.require(self.approximate in ("none", "tanh"), f"unknown form {self.approximate!r}")
        return super().infer()

    def reference(self, x: np.ndarray) -> np.ndarray:
        if self.approximate == "tanh":
            inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            return (0.5 * x * (1 + np.tanh(inner))).astype(x.dtype)
        return (0.5 * x * (1 + _erf(x / math.sqrt(2)))).astype(x.dtype)


class Softplus(FloatUnary, mnemonic="softplus"):
    """y = ln(1 + e^x)."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.logaddexp(x, np.zeros_like(x))


class Erf(FloatUnary, mnemonic="erf"):
    """y = the error function of x."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return _erf(x).astype(x.dtype)


class Sin(FloatUnary, mnemonic="sin"):
    """y = sin x."""

    reference = staticmethod(np.sin)


class Cos(FloatUnary, mnemonic="cos"):
    """y = cos x."""

    reference = staticmethod(np.cos)


class Sign(Unary, mnemonic="sign"):
    """y = -1, 0 or 1."""

    reference = staticmethod(np.sign)


class Floor(FloatUnary, mnemonic="floor"):
    """y = the largest integer not above x."""

    reference = staticmethod(np.floor)


class Round(FloatUnary, mnemonic="round"):
    """y = the nearest integer; `mode` says where halves go: half_even, half_away or half_up.

    half_up is floor(x + 0.5) with the rounding that the sum brings: so the kernels that use it do.
    """

    mode: str = "half_even"

    def infer(self) -> TensorType:
        self.require(self.mode in ROUNDINGS, f"unknown rounding {self.mode!r}")
        return super().infer()

    def reference(self, x: np.ndarray) -> np.ndarray:
        return ROUNDINGS[self.mode](x)


class Clamp(Unary, mnemonic="clamp"):
    """y = min(max(x, low), high); a missing bound does not bind."""

    low: float | int | None
    high: float | int | None

    def reference(self, x: np.ndarray) -> np.ndarray:
        low = None if self.low is None else x.dtype.type(self.low)
        high = None if self.high is None else x.dtype.type(self.high)
        return x if low is None and high is None else np.clip(x, low, high).astype(x.dtype)


class Cast(Unary, mnemonic="cast"):
    """y = x in another element type; floats go to integers towards zero."""

    dtype: DType

    def infer(self) -> TensorType:
        self.require(self.dtype.layout is None, "a packed layout is made by pack_ternary")
        return self.x.type.with_dtype(self.dtype)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x.astype(self.dtype.numpy)


class Binary(Op):
    """Two operands of one dtype, broadcast against each other."""

    x: Value
    y: Value
    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        x, y = self.x.type, self.y.type
        self.require(
            x.dtype is y.dtype, f"operands must have one dtype, not {x.dtype} and {y.dtype}"
        )
        return TensorType(x.dtype, broadcast(x.shape, y.shape))


class Add(Binary, mnemonic="add"):
    """z = x + y."""

    commutative: ClassVar[bool] = True
    reference = staticmethod(np.add)


class Sub(Binary, mnemonic="sub"):
    """z = x - y."""

    reference = staticmethod(np.subtract)


class Mul(Binary, mnemonic="mul"):
    """z = x * y."""

    commutative: ClassVar[bool] = True
    reference = staticmethod(np.multiply)


class Div(Binary, mnemonic="div"):
    """z = x / y; integers are divided towards minus infinity."""

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (
            (x / y).astype(x.dtype)
            if np.issubdtype(x.dtype, np.inexact) or x.dtype.kind == "V"
            else x // y
        )


class Pow(Binary, mnemonic="pow"):
    """z = x to the power of y."""

    reference = staticmethod(np.power)


class Maximum(Binary, mnemonic="maximum"):
    """z = the larger one."""

    commutative: ClassVar[bool] = True
    reference = staticmethod(np.maximum)


class Minimum(Binary, mnemonic="minimum"):
    """z = the smaller one."""

    commutative: ClassVar[bool] = True
    reference = staticmethod(np.minimum)
