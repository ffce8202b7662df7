"""Where values come from."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmc.ir.op import Op
from mmc.ir.types import Dim, DType, TensorType, static_shape


class Input(Op, mnemonic="input"):
    """What the caller passes, by name."""

    name: str
    declared: TensorType
    keeps_origin: ClassVar[bool] = False

    def infer(self) -> TensorType:
        return self.declared


class Weight(Op, mnemonic="weight"):
    """A tensor of the checkpoint, or one derived from it, by name: its bytes stay in `Tensors`."""

    name: str
    declared: TensorType
    keeps_origin: ClassVar[bool] = False

    def infer(self) -> TensorType:
        return self.declared


class Constant(Op, mnemonic="constant"):
    """One number, repeated over the shape."""

    value: float | int | bool
    declared: TensorType
    keeps_origin: ClassVar[bool] = False

    def infer(self) -> TensorType:
        return self.declared

    def reference(self) -> np.ndarray:
        shape = static_shape(self.declared.shape)
        return np.full(shape, self.value, self.declared.dtype.numpy)


class Iota(Op, mnemonic="iota"):
    """start, start + 1, ... : i64[length]."""

    length: Dim
    start: int = 0
    keeps_origin: ClassVar[bool] = False

    def infer(self) -> TensorType:
        return TensorType(DType.I64, (self.length,))

    def reference(self) -> np.ndarray:
        (length,) = static_shape((self.length,))
        return np.arange(self.start, self.start + length, dtype=np.int64)


def scalar(value: float | int | bool, dtype: DType = DType.F32) -> Constant:
    """A constant without dimensions."""
    return Constant(value, TensorType(dtype, ()))
