"""Dense contractions: what the compiler is there to remove."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmc.ir.op import Op, Value
from mmc.ir.types import TensorType, broadcast


class Linear(Op, mnemonic="linear"):
    """y[..., n] = sum over k of x[..., k] * w[n, k], plus bias[n]."""

    x: Value
    w: Value
    bias: Value | None = None
    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        x, w = self.x.type, self.w.type
        self.require(x.rank >= 1 and w.rank == 2, f"needs x[..., K] and w[N, K], not {x} and {w}")
        self.require(x.dtype is w.dtype, f"x is {x.dtype}, w is {w.dtype}")
        self.require(x.shape[-1] == w.shape[1], f"x has {x.shape[-1]} columns, w has {w.shape[1]}")
        if self.bias is not None:
            self.require(
                self.bias.type == TensorType(x.dtype, w.shape[:1]), f"bias is {self.bias.type}"
            )
        return x.with_shape((*x.shape[:-1], w.shape[0]))

    def reference(self, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        y = x @ w.T
        return (y if bias is None else y + bias).astype(x.dtype)


class Matmul(Op, mnemonic="matmul"):
    """z[..., m, n] = sum over k of x[..., m, k] * y[..., k, n]; leading axes broadcast."""

    x: Value
    y: Value

    def infer(self) -> TensorType:
        x, y = self.x.type, self.y.type
        self.require(x.rank >= 2 and y.rank >= 2, f"needs two matrices, not {x} and {y}")
        self.require(x.dtype is y.dtype, f"x is {x.dtype}, y is {y.dtype}")
        self.require(
            x.shape[-1] == y.shape[-2], f"x has {x.shape[-1]} columns, y has {y.shape[-2]} rows"
        )
        return x.with_shape((*broadcast(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]))

    def reference(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y).astype(x.dtype)
