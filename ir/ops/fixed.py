"""Whole numbers alone: a model as an FPGA runs it, with the arithmetic of `mmc.ir.fixed_point`."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmc.ir.fixed_point import (
    LARGEST_SHIFT,
    NARROW,
    NORM_BITS,
    ONE,
    SMALLEST_SHIFT,
    STATE_SHIFT,
    TABLE_FRACTION,
    WIDE,
    Scalar,
    bit_length,
    codes,
    largest,
    multiply_scalars,
    root_and_reciprocal,
    round_shift,
    saturate,
    shift_right,
    sigmoid,
)
from mmc.ir.op import Op, Value
from mmc.ir.types import DType, TensorType


def _wide(*operands: np.ndarray) -> list[np.ndarray]:
    return [operand.astype(np.int64) for operand in operands]


def _constant(mantissa: int, exponent: int) -> Scalar:
    return np.array(mantissa, np.int64), np.array(exponent, np.int64)


def _i32(v: np.ndarray) -> np.ndarray:
    return v.astype(np.int32)


class FixedOp(Op):
    """Base: integers in, integers out, position by position."""

    positionwise: ClassVar[bool] = True

    def integers(self, *values: Value | None) -> None:
        for value in values:
            held = value is None or value.type.dtype in (DType.I8, DType.I16, DType.I32)
            self.require(held, f"takes integers, not {value and value.type}")

    def row_scalars(self, x: TensorType, *scalars: Value) -> None:
        for scalar in scalars:
            fits = scalar.type == TensorType(DType.I32, (*x.shape[:-1], 1))
            self.require(fits, f"a scalar for each row of {x}, not {scalar.type}")

    def column(self, x: TensorType, vector: Value | None) -> None:
        if vector is not None:
            fits = vector.type.shape == x.shape[-1:]
            self.require(fits, f"one number a column of {x}, not {vector.type}")


class FixedNormalize(FixedOp, mnemonic="fixed_normalize", results=("n", "r", "e")):
    """n = x * gain, brought to 17 bits and a sign; r * 2^-e = 1 / sqrt(sum(n^2) + eps).

    x has 27 bits, gain 16.  eps is eps_mantissa * 2^eps_exponent in units of (x * gain)^2.
    """

    x: Value
    gain: Value | None
    eps_mantissa: int
    eps_exponent: int

    def infer(self) -> tuple[TensorType, TensorType, TensorType]:
        x = self.x.type
        self.integers(self.x, self.gain)
        self.column(x, self.gain)
        self.require(0 <= self.eps_mantissa < ONE, "the mantissa of eps has 16 bits")
        scalar = TensorType(DType.I32, (*x.shape[:-1], 1))
        return x.with_dtype(DType.I32), scalar, scalar

    def reference(self, x: np.ndarray, gain: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        t = x.astype(np.int64)
        t = t if gain is None else t * gain
        top = largest(t)
        s = np.where(top > 0, bit_length(top) - NORM_BITS, 0)
        n = shift_right(t, s)
        k = self.eps_exponent - 2 * s
        eps = shift_right(np.array(self.eps_mantissa, np.int64), np.clip(-k, -44, 16))
        total = np.maximum(np.square(n).sum(-1, keepdims=True) + eps, 1)
        r, e = root_and_reciprocal(total)
        return _i32(n), _i32(r), _i32(e)


class FixedQuantize(FixedOp, mnemonic="fixed_quantize", results=("q", "m", "e")):
    """q = n * gain in int8, the largest as 127; m * 2^-e = the largest of n * gain, times r.

    n, r and e come from `fixed_normalize`.
    """

    n: Value
    gain: Value | None
    r: Value
    re: Value

    def infer(self) -> tuple[TensorType, TensorType, TensorType]:
        n = self.n.type
        self.integers(self.n, self.gain)
        self.column(n, self.gain)
        self.row_scalars(n, self.r, self.re)
        return n.with_dtype(DType.I8), self.r.type, self.re.type

    def reference(self, n: np.ndarray, *rest: np.ndarray) -> tuple[np.ndarray, ...]:
        *gain, r, re = _wide(*rest)
        w, top, t = codes(n.astype(np.int64), gain[0] if gain else None)
        q = round_shift(w * ((127 << 24) // top), 24)
        m, e = multiply_scalars((top, -t), (r, re))
        return q.astype(np.int8), _i32(m), _i32(e)


class _Scaled(FixedOp):
    """What a scalar of the row and a constant (mantissa, exponent) bring to another fraction."""

    def scaled(
        self, v: np.ndarray, row: Scalar, constant: tuple[int, int], bits: int
    ) -> np.ndarray:
        m, e = multiply_scalars(row, _constant(*constant))
        return _i32(saturate(round_shift(v * m, np.clip(e, SMALLEST_SHIFT, LARGEST_SHIFT)), bits))

    def constants(self, mantissa: int, bits: int) -> None:
        self.require(ONE // 2 <= mantissa < ONE, f"the mantissa {mantissa} has not 16 bits")
        self.require(bits in (NARROW, WIDE), f"no width of {bits} bits")


class FixedRmsNorm(_Scaled, mnemonic="fixed_rms_norm"):
    """y = n * gain * r * 2^-e * mantissa * 2^-exponent: a norm that no quantiser follows."""

    n: Value
    gain: Value | None
    r: Value
    re: Value
    mantissa: int
    exponent: int
    bits: int

    def infer(self) -> TensorType:
        n = self.n.type
        self.integers(self.n, self.gain)
        self.column(n, self.gain)
        self.row_scalars(n, self.r, self.re)
        self.constants(self.mantissa, self.bits)
        return n.with_dtype(DType.I32)

    def reference(self, n: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        *gain, r, re = _wide(*rest)
        w, _, t = codes(n.astype(np.int64), gain[0] if gain else None)
        return self.scaled(w, (r, re - t), (self.mantissa, self.exponent), self.bits)


class FixedRequantize(_Scaled, mnemonic="fixed_requantize"):
    """y = sums * m * 2^-e * mantissa * 2^-exponent, rounded half up, within `bits`."""

    sums: Value
    m: Value
    e: Value
    mantissa: int
    exponent: int
    bits: int

    def infer(self) -> TensorType:
        self.integers(self.sums)
        self.row_scalars(self.sums.type, self.m, self.e)
        self.constants(self.mantissa, self.bits)
        return self.sums.type

    def reference(self, sums: np.ndarray, m: np.ndarray, e: np.ndarray) -> np.ndarray:
        sums, m, e = _wide(sums, m, e)
        return self.scaled(sums, (m, e), (self.mantissa, self.exponent), self.bits)


class FixedLogits(_Scaled, mnemonic="fixed_logits"):
    """y = sums * m * 2^-e * mantissa * 2^-exponent as f32: what the host makes of the sums.

    The largest sum is the likeliest token; only probabilities need this.
    """

    sums: Value
    m: Value
    e: Value
    mantissa: int
    exponent: int

    def infer(self) -> TensorType:
        self.integers(self.sums)
        self.row_scalars(self.sums.type, self.m, self.e)
        self.constants(self.mantissa, NARROW)
        return self.sums.type.with_dtype(DType.F32)

    def reference(self, sums: np.ndarray, m: np.ndarray, e: np.ndarray) -> np.ndarray:
        sums, m, e = _wide(sums, m, e)
        m, e = multiply_scalars((m, e), _constant(self.mantissa, self.exponent))
        return np.ldexp((sums * m).astype(np.float64), -e.astype(np.int32)).astype(np.float32)


class FixedSigmoid(FixedOp, mnemonic="fixed_sigmoid"):
    """y = 65536 * sigmoid(x * 2^-fraction), 0 to 65535, by a table of 1024 entries."""

    x: Value
    fraction: int

    def infer(self) -> TensorType:
        self.integers(self.x)
        fits = STATE_SHIFT // 2 <= self.fraction <= TABLE_FRACTION
        self.require(fits, f"no table for {self.fraction} fraction bits")
        return self.x.type

    def reference(self, x: np.ndarray) -> np.ndarray:
        return _i32(sigmoid(x.astype(np.int64), self.fraction))


class FixedForget(FixedOp, mnemonic="fixed_forget"):
    """y = bound + (65536 - bound) * s >> 16: a forget gate s with its lower bound, below 65536."""

    s: Value
    bound: Value

    def infer(self) -> TensorType:
        self.integers(self.s, self.bound)
        self.column(self.s.type, self.bound)
        return self.s.type

    def reference(self, s: np.ndarray, bound: np.ndarray) -> np.ndarray:
        s, bound = _wide(s, bound)
        return _i32(bound + ((ONE - bound) * s >> 16))


class FixedProduct(FixedOp, mnemonic="fixed_product"):
    """y = a * b * 2^-shift, rounded half up."""

    a: Value
    b: Value
    shift: int
    commutative: ClassVar[bool] = True

    def infer(self) -> TensorType:
        self.integers(self.a, self.b)
        self.require(self.a.type == self.b.type, f"{self.a.type} times {self.b.type}")
        self.require(self.shift > 0, f"shift is {self.shift}")
        return self.a.type

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = _wide(a, b)
        return _i32(round_shift(a * b, self.shift))


class FixedShift(FixedOp, mnemonic="fixed_shift"):
    """y = x * 2^-right, rounded half up; to the left where `right` is negative."""

    x: Value
    right: int

    def infer(self) -> TensorType:
        self.integers(self.x)
        return self.x.type.with_dtype(DType.I32)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return _i32(round_shift(x.astype(np.int64), self.right))


class FixedAdd(FixedOp, mnemonic="fixed_add"):
    """y = a + b, within 27 bits: the residual stream."""

    a: Value
    b: Value
    commutative: ClassVar[bool] = True

    def infer(self) -> TensorType:
        self.integers(self.a, self.b)
        self.require(self.a.type == self.b.type, f"{self.a.type} plus {self.b.type}")
        return self.a.type

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = _wide(a, b)
        return _i32(saturate(a + b, WIDE))


class FixedRecurrence(Op, mnemonic="fixed_recurrence"):
    """h[t] = (f[t] * h[t-1] + (65536 - f[t]) * c[t] * 2^9) >> 16, half up, along `axis` from h0.

    The MLGRU (arXiv:2406.02528, section 3.3.1).  c has 18 bits, so h stays within 27: a weighted
    mean is never larger than what it is the mean of, and half up keeps that.
    """

    f: Value
    c: Value
    h0: Value
    axis: int = 1

    def infer(self) -> TensorType:
        f, c, h0 = self.f.type, self.c.type, self.h0.type
        self.require(f == c and f.dtype is DType.I32, f"f is {f}, c is {c}")
        self.require(0 <= self.axis < f.rank, f"no axis {self.axis} in {f}")
        step = f.with_shape((*f.shape[: self.axis], *f.shape[self.axis + 1 :]))
        self.require(h0 == step, f"h0 is {h0}, a step is {step}")
        return f

    def reference(self, f: np.ndarray, c: np.ndarray, h0: np.ndarray) -> np.ndarray:
        f, c, h = _wide(f, c, h0)
        hs: list[np.ndarray] = []
        for t in range(f.shape[self.axis]):
            gate = f.take(t, self.axis)
            new = c.take(t, self.axis) << STATE_SHIFT
            h = round_shift(gate * h + (ONE - gate) * new, 16)
            hs.append(h)
        return _i32(np.stack(hs, self.axis))
