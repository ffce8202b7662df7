"""Inputs and weights of graphs that tests write down."""

from __future__ import annotations

from mmc.ir.ops.source import Input, Weight
from mmc.ir.types import Dim, DType, TensorType, symbol

B, T = symbol("B"), symbol("T")


def given(name: str, *dims: Dim, dtype: DType = DType.F32) -> Input:
    return Input(name, TensorType(dtype, dims))


def weight(name: str, *dims: int, dtype: DType = DType.F32) -> Weight:
    return Weight(name, TensorType(dtype, dims))
