"""Reductions and scans over one axis (negative axes count from the end)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmc.ir.op import Op, Value
from mmc.ir.types import DType, TensorType


class Reduction(Op):
    """One axis shrinks to 1 (`keepdims`) or goes away."""

    x: Value
    axis: int = -1
    keepdims: bool = True

    def infer(self) -> TensorType:
        x = self.x.type
        self.require(-x.rank <= self.axis < x.rank, f"no axis {self.axis} in {x}")
        axis = self.axis % x.rank
        kept = (1,) if self.keepdims else ()
        return x.with_shape((*x.shape[:axis], *kept, *x.shape[axis + 1 :]))


class Sum(Reduction, mnemonic="sum"):
    """y = the sum of x; floats are summed in float64 and rounded once."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        wide = np.int64 if x.dtype.kind in "iub" else np.float64
        return x.sum(self.axis, dtype=wide, keepdims=self.keepdims).astype(x.dtype)


class Mean(Reduction, mnemonic="mean"):
    """y = the mean of x, summed in float64 and rounded once."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x.mean(self.axis, dtype=np.float64, keepdims=self.keepdims).astype(x.dtype)


class Max(Reduction, mnemonic="max"):
    """y = the largest x."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x.max(self.axis, keepdims=self.keepdims)


class Median(Reduction, mnemonic="median"):
    """y = the lower median of x, as torch defines it."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        middle = (x.shape[self.axis] - 1) // 2
        found = np.take(np.sort(x, self.axis), [middle], self.axis)
        return found if self.keepdims else found.squeeze(self.axis)


class ArgMax(Reduction, mnemonic="arg_max"):
    """y = the first index of the largest x."""

    def infer(self) -> TensorType:
        return super().infer().with_dtype(DType.I64)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(self.axis, keepdims=self.keepdims)


class AlongAxis(Op):
    """The shape stays; elements along one axis see each other."""

    x: Value
    axis: int = -1
    positionwise: ClassVar[bool] = False

    def infer(self) -> TensorType:
        x = self.x.type
        self.require(-x.rank <= self.axis < x.rank, f"no axis {self.axis} in {x}")
        return x


class Softmax(AlongAxis, mnemonic="softmax"):
    """y = e^x / sum of e^x over the axis."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(self.axis, keepdims=True))
        return e / e.sum(self.axis, keepdims=True)


class CumSum(AlongAxis, mnemonic="cum_sum"):
    """y[i] = x[0] + ... + x[i] along the axis."""

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x.cumsum(self.axis, dtype=x.dtype)
