"""Whole numbers alone: norms, codes and scales as an FPGA has them, and what such operations share.

The arithmetic is that of `mmc.ir.fixed_point`; gates, sums and states are in `fixed_gates`.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmc.ir.fixed_point import (
    LARGEST_SHIFT,
    NARROW,
    NORM_BITS,
    ONE,
    SMALLEST_SHIFT,
    WIDE,
    Scalar,
    as_i32,
    as_i64,
    bit_length,
    codes,
    largest,
    multiply_scalars,
    root_and_reciprocal,
    round_shift,
    saturate,
    shift_right,
)
from mmc.ir.op import Op, Value
from mmc.ir.types import DType, TensorType


def _constant(mantissa: int, exponent: int) -> Scalar:
    return np.array(mantissa, np.int64), np.array(exponent, np.int64)


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
        return as_i32(n), as_i32(r), as_i32(e)


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
        *gain, r, re = as_i64(*rest)
        w, top, t = codes(n.astype(np.int64), gain[0] if gain else None)
        q = round_shift(w * ((127 << 24) // top), 24)
        m, e = multiply_scalars((top, -t), (r, re))
        return q.astype(np.int8), as_i32(m), as_i32(e)


class _Scaled(FixedOp):
    """What a scalar of the row and a constant (mantissa, exponent) bring to another fraction."""

    def scaled(
        self, v: np.ndarray, row: Scalar, constant: tuple[int, int], bits: int
    ) -> np.ndarray:
        m, e = multiply_scalars(row, _constant(*constant))
        return as_i32(saturate(round_shift(v * m, np.clip(e, SMALLEST_SHIFT, LARGEST_SHIFT)), bits))

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
        *gain, r, re = as_i64(*rest)
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
        sums, m, e = as_i64(sums, m, e)
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
        sums, m, e = as_i64(sums, m, e)
        m, e = multiply_scalars((m, e), _constant(self.mantissa, self.exponent))
        return np.ldexp((sums * m).astype(np.float64), -e.astype(np.int32)).astype(np.float32)
