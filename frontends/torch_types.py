"""Torch's element types, sizes and tensors in the IR's words."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import sympy
import torch

from mmc.errors import MmcError
from mmc.ir.types import Dim, DType, TensorType, symbol

DTYPES: dict[torch.dtype, DType] = {
    torch.float32: DType.F32,
    torch.float16: DType.F16,
    torch.bfloat16: DType.BF16,
    torch.int8: DType.I8,
    torch.uint8: DType.U8,
    torch.int32: DType.I32,
    torch.int64: DType.I64,
    torch.bool: DType.BOOL,
}
TORCH_DTYPES = {ours: theirs for theirs, ours in DTYPES.items()}


def dtype_of(dtype: torch.dtype) -> DType:
    """The IR's element type; raise MmcError where it has none."""
    if dtype not in DTYPES:
        known = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise MmcError(
            f"element type {str(dtype).removeprefix('torch.')} is not supported",
            hint=f"convert the model to one of {known}",
        )
    return DTYPES[dtype]


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's elements as numpy, sharing memory where possible."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


class Sizes:
    """Torch's symbolic sizes as dimensions of the IR, each symbol under its name in the IR."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._names = dict(names or {})
        self._unnamed = 0

    def dim(self, size: int | torch.SymInt) -> Dim:
        """The dimension; raise MmcError where it is not a polynomial of symbols."""
        return size if isinstance(size, int) else self._expression(size.node.expr)

    def tensor(self, tensor: torch.Tensor) -> TensorType:
        return TensorType(dtype_of(tensor.dtype), tuple(self.dim(s) for s in tensor.shape))

    def _expression(self, expr: sympy.Basic) -> Dim:
        match expr:
            case sympy.Integer():
                return int(expr)
            case sympy.Symbol():
                return symbol(self._name(str(expr)))
            case sympy.Add():
                return sum(map(self._expression, expr.args), start=0)
            case sympy.Mul():
                return _product([self._expression(a) for a in expr.args])
            case sympy.Pow(args=(base, sympy.Integer() as power)) if power > 0:
                return _product([self._expression(base)] * int(power))
            case _:
                raise MmcError(
                    f"the size {expr} is not a sum of products of symbols",
                    hint="fix that dimension, or leave it out of dynamic_shapes",
                )

    def _name(self, torch_name: str) -> str:
        if torch_name not in self._names:
            self._names[torch_name] = f"s{self._unnamed}"
            self._unnamed += 1
        return self._names[torch_name]


def _product(dims: list[Dim]) -> Dim:
    product: Dim = 1
    for dim in dims:
        product = product * dim
    return product
