"""Whole numbers alone: gates, sums and states as an FPGA has them; see `fixed`."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmc.ir.fixed_point import (
    ONE,
    STATE_SHIFT,
    TABLE_FRACTION,
    WIDE,
    as_i32,
    as_i64,
    round_shift,
    saturate,
    sigmoid,
)
from mmc.ir.op import Op, Value
from mmc.ir.ops.fixed import FixedOp
from mmc.ir.types import DType, TensorType


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
        return as_i32(sigmoid(x.astype(np.int64), self.fraction))


class FixedForget(FixedOp, mnemonic="fixed_forget"):
    """y = bound + (65536 - bound) * s >> 16: a forget gate s with its lower bound, below 65536."""

    s: Value
    bound: Value

    def infer(self) -> TensorType:
        self.integers(self.s, self.bound)
        self.column(self.s.type, self.bound)
        return self.s.type

    def reference(self, s: np.ndarray, bound: np.ndarray) -> np.ndarray:
        s, bound = as_i64(s, bound)
        return as_i32(bound + ((ONE - bound) * s >> 16))


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
        a, b = as_i64(a, b)
        return as_i32(round_shift(a * b, self.shift))


class FixedShift(FixedOp, mnemonic="fixed_shift"):
    """y = x * 2^-right, rounded half up; to the left where `right` is negative."""

    x: Value
    right: int

    def infer(self) -> TensorType:
        self.integers(self.x)
        return self.x.type.with_dtype(DType.I32)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return as_i32(round_shift(x.astype(np.int64), self.right))


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
        a, b = as_i64(a, b)
        return as_i32(saturate(a + b, WIDE))


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
        f, c, h = as_i64(f, c, h0)
        hs: list[np.ndarray] = []
        for t in range(f.shape[self.axis]):
            gate = f.take(t, self.axis)
            new = c.take(t, self.axis) << STATE_SHIFT
            h = round_shift(gate * h + (ONE - gate) * new, 16)
            hs.append(h)
        return as_i32(np.stack(hs, self.axis))
