"""Normalisation over the last axis."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmc.ir.op import Op, Value
from mmc.ir.types import TensorType


def rms_statistic(x: np.ndarray, eps: float) -> np.ndarray:
    """1 / sqrt(mean(x^2) + eps) over the last axis, summed in float64 and rounded once."""
    mean = np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True)
    return (1 / np.sqrt(mean + eps)).astype(x.dtype)


class MeanSquare(Op, mnemonic="mean_square"):
    """y = mean(x^2) over the last axis, summed in float64 and rounded once."""

    x: Value
    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        x = self.x.type
        return x.with_shape((*x.shape[:-1], 1))

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True).astype(x.dtype)


class RmsStatistic(Op, mnemonic="rms_statistic"):
    """r = 1 / sqrt(mean(x^2) + eps) over the last axis: all that RMSNorm needs to know of a row."""

    x: Value
    eps: float
    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        x = self.x.type
        return x.with_shape((*x.shape[:-1], 1))

    def reference(self, x: np.ndarray) -> np.ndarray:
        return rms_statistic(x, self.eps)


class RmsNorm(Op, mnemonic="rms_norm"):
    """y = x / sqrt(mean(x^2) + eps) * gain, over the last axis; gain may be absent.

    arXiv:1910.07467.
    """

    x: Value
    gain: Value | None
    eps: float
    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        x = self.x.type
        if self.gain is not None:
            self.require(
                self.gain.type.shape == x.shape[-1:], f"gain is {self.gain.type}, x is {x}"
            )
        return x

    def reference(self, x: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        y = x * rms_statistic(x, self.eps)
        return y if gain is None else y * gain


class LayerNorm(Op, mnemonic="layer_norm"):
    """y = (x - mean(x)) / sqrt(var(x) + eps) * gain + bias, over the last axis."""

    x: Value
    gain: Value | None
    bias: Value | None
    eps: float
    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        x = self.x.type
        for name, operand in (("gain", self.gain), ("bias", self.bias)):
            if operand is not None:
                self.require(
                    operand.type.shape == x.shape[-1:], f"{name} is {operand.type}, x is {x}"
                )
        return x

    def reference(self, x: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        wide = x.astype(np.float64)
        centred = wide - wide.mean(-1, keepdims=True)
        y = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + self.eps)
        given = iter(rest)
        y = y if self.gain is None else y * next(given)
        y = y if self.bias is None else y + next(given)
        return y.astype(x.dtype)
