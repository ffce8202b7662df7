"""Matrices of 4 bits a number, in groups of columns with a step each.

The groups, bytes and rounding are those of ggml's Q4_0, which models are compared with.  The 32
columns of a group take 16 bytes:

    byte j of a group    column j in its lower half, column 16 + j in its upper half
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmc.ir.op import Op, Value
from mmc.ir.types import DType, TensorType, static_shape

GROUP = 32
"""Columns that share a step."""

ZERO = 8
"""The code of zero; codes are 0 to 15."""


class QuantizeInt4(Op, mnemonic="quantize_int4", results=("codes", "steps")):
    """(codes, steps) with x about (code - 8) * step.

    The number of the largest magnitude in a group has the code 0, whatever its sign: step is that
    number over -8, in f16.
    """

    x: Value

    def infer(self) -> tuple[TensorType, TensorType]:
        x = self.x.type
        self.require(x.dtype is DType.F32 and x.rank == 2, f"x is {x}, not f32[N, K]")
        n, k = static_shape(x.shape)
        self.require(k % GROUP == 0, f"{k} columns are no whole groups of {GROUP}")
        return (
            TensorType(DType.U8, (n, k // 2)),
            TensorType(DType.F16, (n, k // GROUP)),
        )

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        groups = x.reshape(x.shape[0], -1, GROUP)
        at = np.abs(groups).argmax(-1, keepdims=True)
        steps = (np.take_along_axis(groups, at, -1) / -ZERO).astype(np.float16)
        exact = steps.astype(np.float32)
        inverse = np.divide(1, exact, out=np.zeros_like(exact), where=exact != 0)
        scaled = groups * inverse
        scaled += ZERO + 0.5
        codes = np.clip(np.floor(scaled, out=scaled), 0, 15, out=scaled).astype(np.uint8)
        packed = codes[..., : GROUP // 2] | codes[..., GROUP // 2 :] << 4
        return packed.reshape(x.shape[0], -1), steps[..., 0]


class DequantizeInt4(Op, mnemonic="dequantize_int4"):
    """x[..., k] = (code[..., k] - 8) * step[..., k // 32], two codes in a byte."""

    codes: Value
    steps: Value
    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        codes, steps = self.codes.type, self.steps.type
        self.require(codes.dtype is DType.U8, f"codes are {codes.dtype}, not u8")
        self.require(steps.dtype is DType.F16, f"steps are {steps.dtype}, not f16")
        held, groups = codes.shape[-1:], steps.shape[-1:]
        fits = codes.rank >= 1 and codes.shape[:-1] == steps.shape[:-1]
        fits = fits and isinstance(held[0], int) and held[0] == GROUP // 2 * groups[0]
        self.require(fits, f"codes are {codes}, steps are {steps}")
        return TensorType(DType.F32, (*codes.shape[:-1], 2 * held[0]))

    def reference(self, codes: np.ndarray, steps: np.ndarray) -> np.ndarray:
        groups = codes.reshape(*steps.shape, GROUP // 2)
        numbers = np.concatenate([groups & 15, groups >> 4], -1).astype(np.float32) - ZERO
        scaled = numbers * steps[..., None].astype(np.float32)
        return scaled.reshape(*codes.shape[:-1], -1)
