"""What a table entry is given: the types that torch promises, and operands made ready.

Torch promotes types on its own; the IR does not, so every promotion becomes a `cast` here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from mmc.frontends.operands import Operand, operand
from mmc.frontends.torch_types import DTYPES, TORCH_DTYPES
from mmc.ir.op import Value
from mmc.ir.types import DType, Shape, SymbolicDim, TensorType

Results = Value | tuple[Value | None, ...]


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
