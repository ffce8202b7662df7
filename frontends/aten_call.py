"""What a table entry is given: the types that torch promises, and operands made ready.

Torch promotes types on its own; the IR does not, so every promotion becomes a `cast` here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from mmc.frontends.torch_types import DTYPES, TORCH_DTYPES
from mmc.ir.op import Value
from mmc.ir.ops.pointwise import Cast
from mmc.ir.ops.reduce import Sum
from mmc.ir.ops.shape import Reshape
from mmc.ir.ops.source import Constant, scalar
from mmc.ir.types import Dim, DType, Shape, SymbolicDim, TensorType

Operand = Value | SymbolicDim | float | int | bool
Results = Value | tuple[Value | None, ...]


class Unsupported(Exception):
    """This form of the operation has no translation; the message says which."""


@dataclass(frozen=True)
class Call:
    """types: what torch says that the operation returns."""

    types: tuple[TensorType, ...]

    @property
    def type(self) -> TensorType:
        return self.types[0]

    @property
    def dtype(self) -> DType:
        return self.types[0].dtype

    @property
    def shape(self) -> Shape:
        return self.types[0].shape

    def operand(self, x: Operand) -> Value:
        """The operand in the element type of the result."""
        return operand(x, self.dtype)


Translate = Callable[..., Results]
"""Takes (call, *arguments in the order of torch's schema, defaults filled in)."""


def cast(x: Value, dtype: DType) -> Value:
    if x.type.dtype is dtype:
        return x
    if isinstance(x, Constant):
        return Constant(number(x.value, dtype), x.type.with_dtype(dtype))
    return Cast(x, dtype)


def operand(x: Operand, dtype: DType) -> Value:
    """A tensor, a size or a number as a value of the element type."""
    if isinstance(x, Value):
        return cast(x, dtype)
    if isinstance(x, SymbolicDim):  # the IR has no "size of": count ones
        ones = Constant(1, TensorType(DType.I64, (x,)))
        return cast(Sum(ones, axis=0, keepdims=False), dtype)
    return scalar(number(x, dtype), dtype)


def number(x: float | int | bool, dtype: DType) -> float | int | bool:
    """The Python number of the element type's kind: 1, 1.0 and True are different attributes."""
    kind = float if dtype.is_float else bool if dtype is DType.BOOL else int
    return kind(x)


def common_dtype(*operands: Operand) -> DType:
    """The element type in which torch computes on these operands."""
    return _common(*(_promotion_key(x) for x in operands))


PromotionKey = tuple[DType, bool] | type


def _promotion_key(x: Operand) -> PromotionKey:
    if isinstance(x, Value):
        return x.type.dtype, x.type.rank == 0
    return int if isinstance(x, SymbolicDim) else type(x)


@lru_cache(maxsize=1024)
def _common(*keys: PromotionKey) -> DType:
    examples = [_example(key) for key in keys]
    first, *rest = examples
    for other in rest:
        found = torch.result_type(first, other)
        first = torch.empty((1,), dtype=found, device="meta")
    return DTYPES[torch.result_type(first, first)]


def _example(key: PromotionKey) -> torch.Tensor | float:
    if isinstance(key, type):
        return key(1)
    dtype, scalar_like = key
    return torch.empty(() if scalar_like else (1,), dtype=TORCH_DTYPES[dtype], device="meta")


def reshape(x: Value, shape: Shape) -> Value:
    return x if x.type.shape == shape else Reshape(x, shape)


def axis_of(x: Value, axis: int) -> int:
    """The axis counted from the front."""
    return axis % max(x.type.rank, 1)


def replaced(shape: Shape, axis: int, *dims: Dim) -> Shape:
    """The shape with other dimensions in place of one."""
    return (*shape[:axis], *dims, *shape[axis + 1 :])
