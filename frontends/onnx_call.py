"""What a table entry is given: a node's operands and attributes, made ready.

An operand is a value of the IR, or known numbers: small tensors whose elements the importer works
out itself, such as the shapes that ONNX computes with.  Their elements may be sizes, `B*T`.
"""

# onnx_ir leaves attribute values unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir

from mmc.frontends.operands import Unsupported, cast, operand, reshape
from mmc.ir.op import Value
from mmc.ir.ops.shape import Concat
from mmc.ir.ops.source import Constant
from mmc.ir.tensors import Tensors
from mmc.ir.types import Dim, DType, SymbolicDim, TensorType, static_shape

Numbers = np.ndarray
"""Elements of dtype object: bool, int, float or a symbolic size."""

DTYPES: dict[onnx_ir.DataType, DType] = {
    onnx_ir.DataType.FLOAT: DType.F32,
    onnx_ir.DataType.FLOAT16: DType.F16,
    onnx_ir.DataType.BFLOAT16: DType.BF16,
    onnx_ir.DataType.INT8: DType.I8,
    onnx_ir.DataType.UINT8: DType.U8,
    onnx_ir.DataType.INT32: DType.I32,
    onnx_ir.DataType.INT64: DType.I64,
    onnx_ir.DataType.BOOL: DType.BOOL,
}
NARROW: dict[onnx_ir.DataType, DType] = {
    onnx_ir.DataType.INT4: DType.I8,
    onnx_ir.DataType.UINT4: DType.U8,
    onnx_ir.DataType.INT2: DType.I8,
    onnx_ir.DataType.UINT2: DType.U8,
}
"""Stored weights of fewer bits than a byte: each has a byte in the IR."""


def dtype_of(dtype: onnx_ir.DataType | int | None, narrow: bool = False) -> DType:
    """The IR's element type; raise Unsupported where it has none."""
    found = onnx_ir.DataType(dtype) if dtype is not None else None
    known = {**DTYPES, **NARROW} if narrow else DTYPES
    if found is None or found not in known:
        names = ", ".join(d.name for d in DTYPES)
        told = "none" if found is None else found.name
        raise Unsupported(f"element type {told} is not supported; the IR has {names}")
    return known[found]


@dataclass(frozen=True, eq=False)
class Known:
    """A small tensor whose elements are known while the model is imported."""

    numbers: Numbers
    dtype: DType

    @staticmethod
    def of(numbers: Any, dtype: DType = DType.I64) -> Known:
        array = np.empty(np.shape(numbers), object)
        array[...] = numbers
        return Known(array, dtype)

    def value(self, tensors: Tensors, name: str) -> Value:
        """It as a value of the IR."""
        shape, flat = self.numbers.shape, list(self.numbers.flat)
        declared = TensorType(self.dtype, shape)
        if any(isinstance(n, SymbolicDim) for n in flat):
            one: list[Value] = [reshape(operand(n, self.dtype), (1,)) for n in flat]
            return reshape(Concat(tuple(one), 0) if len(one) > 1 else one[0], shape)
        if flat and all(n == flat[0] for n in flat):
            kind = float if self.dtype.is_float else bool if self.dtype is DType.BOOL else int
            return Constant(kind(flat[0]), declared)
        return tensors.add(name, declared, self.numbers.astype(self.dtype.numpy))


Operand = Value | Known
Results = Operand | Sequence[Operand | None]


@dataclass
class Call:
    """One node.  opset: the version of its domain.  tensors: where new weights go."""

    node: onnx_ir.Node
    given: Sequence[Operand | None]
    opset: int
    tensors: Tensors

    def has(self, index: int) -> bool:
        return index < len(self.given) and self.given[index] is not None

    def operand(self, index: int) -> Operand:
        if not self.has(index):
            raise Unsupported(f"input {index} is missing")
        found = self.given[index]
        assert found is not None
        return found

    def value(self, index: int = 0) -> Value:
        return self.as_value(self.operand(index), index)

    def as_value(self, found: Operand, index: int) -> Value:
        if isinstance(found, Value):
            return found
        source = self.node.inputs[index]
        return found.value(self.tensors, (source.name if source else None) or "constant")

    def optional(self, index: int) -> Value | None:
        return self.value(index) if self.has(index) else None

    @property
    def values(self) -> list[Value]:
        return [self.value(i) for i in range(len(self.given))]

    def numbers(self, index: int) -> Numbers:
        """The elements of an operand that must be known, such as axes."""
        found = self.operand(index)
        if isinstance(found, Known):
            return found.numbers
        if isinstance(found, Constant) and all(isinstance(d, int) for d in found.type.shape):
            return Known.of(np.full(static_shape(found.type.shape), found.value)).numbers
        raise Unsupported(f"input {index} is computed from the model's inputs, and must be known")

    def dims(self, index: int) -> list[Dim]:
        return [d if isinstance(d, SymbolicDim) else int(d) for d in self.numbers(index).flat]

    def ints(self, index: int) -> list[int]:
        """Elements that must be plain numbers."""
        dims = self.dims(index)
        if symbolic := [d for d in dims if isinstance(d, SymbolicDim)]:
            raise Unsupported(f"input {index} is the size {symbolic[0]}, and must be a number")
        return [d for d in dims if isinstance(d, int)]

    def number(self, index: int) -> float | int | bool | None:
        """The element of a scalar that is known, or None."""
        try:
            flat = list(self.numbers(index).flat) if self.has(index) else []
        except Unsupported:
            return None
        return flat[0] if len(flat) == 1 and not isinstance(flat[0], SymbolicDim) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def axes(self, index: int, name: str = "axes") -> list[int] | None:
        """Axes as an input (newer opsets) or as an attribute; None where there are none."""
        if self.has(index):
            return self.ints(index)
        given = self.attribute(name)
        return None if given is None else [int(a) for a in given]

    def dtype(self, name: str, default: Any = None) -> DType:
        """An element type that is an attribute."""
        return dtype_of(self.attribute(name, default))


Translate = Callable[[Call], Results]


def axis_of(x: Value, axis: int) -> int:
    """The axis counted from the front; raise Unsupported where there is none."""
    if not -x.type.rank <= axis < max(x.type.rank, 1):
        raise Unsupported(f"no axis {axis} in {x.type}")
    return axis % max(x.type.rank, 1)


def scalar_like(number: float | int | bool, x: Value) -> Value:
    """A number in the element type of x."""
    return operand(number, x.type.dtype)


def floats(x: Value) -> Value:
    """Sixteen-bit floats and integers as float32, in which quantisers compute."""
    return cast(x, DType.F32)
