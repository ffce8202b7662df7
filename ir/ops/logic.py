"""Truth values and bits, element by element: what compares, joins bits, or chooses."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmc.ir.op import Op, Value
from mmc.ir.ops.pointwise import Binary, Unary
from mmc.ir.types import DType, TensorType, broadcast


class Not(Unary, mnemonic="not"):
    """y = true where x is zero."""

    def infer(self) -> TensorType:
        return self.x.type.with_dtype(DType.BOOL)

    reference = staticmethod(np.logical_not)


class BitAnd(Binary, mnemonic="bit_and"):
    """z = x and y, bit by bit; on bool the logical and."""

    commutative: ClassVar[bool] = True
    reference = staticmethod(np.bitwise_and)


class BitOr(Binary, mnemonic="bit_or"):
    """z = x or y, bit by bit; on bool the logical or."""

    commutative: ClassVar[bool] = True
    reference = staticmethod(np.bitwise_or)


class ShiftRight(Binary, mnemonic="shift_right"):
    """z = x >> y."""

    reference = staticmethod(np.right_shift)


class Comparison(Binary):
    """Two operands of one dtype; a bool for each element."""

    def infer(self) -> TensorType:
        return super().infer().with_dtype(DType.BOOL)


class Equal(Comparison, mnemonic="equal"):
    """z = (x == y)."""

    reference = staticmethod(np.equal)


class NotEqual(Comparison, mnemonic="not_equal"):
    """z = (x != y)."""

    reference = staticmethod(np.not_equal)


class Less(Comparison, mnemonic="less"):
    """z = (x < y)."""

    reference = staticmethod(np.less)


class LessEqual(Comparison, mnemonic="less_equal"):
    """z = (x <= y)."""

    reference = staticmethod(np.less_equal)


class Greater(Comparison, mnemonic="greater"):
    """z = (x > y)."""

    reference = staticmethod(np.greater)


class GreaterEqual(Comparison, mnemonic="greater_equal"):
    """z = (x >= y)."""

    reference = staticmethod(np.greater_equal)


class Where(Op, mnemonic="where"):
    """z = x where the condition holds, else y."""

    condition: Value
    x: Value
    y: Value
    positionwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        self.require(self.condition.type.dtype is DType.BOOL, "the condition must be bool")
        self.require(self.x.type.dtype is self.y.type.dtype, "both branches must have one dtype")
        shape = broadcast(self.condition.type.shape, self.x.type.shape, self.y.type.shape)
        return self.x.type.with_shape(shape)

    reference = staticmethod(np.where)
