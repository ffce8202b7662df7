# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""How values lie in memory, and how TIR reads and writes them.

Row-major and contiguous, except int8: the rows (last axis) of an int8 tensor are `row_stride` bytes
apart, and whoever writes a row fills the bytes past its end with zeros.  bool is one byte; bf16 and
f16 are their bits, and are float32 in registers.  A bool is 0 or 1 in registers too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.types import Dim, DType, SymbolicDim, TensorType
from mmc.targets.layout import INT8_ROW_BYTES, int8_row_bytes
from mmc.targets.tvm import elementary
from mmc.targets.tvm.elementary import Vector

STORED: Mapping[DType, str] = {
    DType.F32: "float32",
    DType.F16: "uint16",
    DType.BF16: "uint16",
    DType.I8: "int8",
    DType.U8: "uint8",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.BOOL: "uint8",
}
"""The TIR element type in memory."""

COMPUTED: Mapping[DType, str] = {
    **STORED,
    DType.F16: "float32",
    DType.BF16: "float32",
}
"""The TIR element type in registers."""

Symbols = Mapping[str, Any]
"""The TIR variable of each symbol."""


def size_of(dim: Dim, symbols: Symbols) -> Any:
    """A dimension as an int, or as an expression of the symbols."""
    if isinstance(dim, int):
        return dim
    total: Any = 0
    for monomial, coefficient in dim.terms:
        total = total + prod((symbols[name] for name in monomial), start=coefficient)
    return total


def row_stride(dtype: DType, columns: Any) -> Any:
    """Elements from one row to the next."""
    if dtype is not DType.I8:
        return columns
    if isinstance(columns, int):
        return int8_row_bytes(columns)
    return T.ceildiv(columns, INT8_ROW_BYTES) * INT8_ROW_BYTES


def count(shape: Sequence[Dim], symbols: Symbols) -> Any:
    """The number of elements, as an int or an expression."""
    return prod((size_of(dim, symbols) for dim in shape), start=1)


def ravel(axes: Sequence[Any], sizes: Sequence[Any]) -> Any:
    """The row-major position of an index."""
    position: Any = 0
    for axis, size in zip(axes, sizes, strict=True):
        position = position * size + axis
    return position


def unravel(position: Any, sizes: Sequence[Any]) -> tuple[Any, ...]:
    """The index of a row-major position."""
    axes: list[Any] = []
    for size in reversed(sizes[1:]):
        if isinstance(size, int) and size == 1:
            axes.append(0)
            continue
        axes.append(T.Bind(T.truncmod(as_expression(position), size)))
        position = T.Bind(T.truncdiv(as_expression(position), size))
    return (position, *reversed(axes)) if sizes else ()


def as_expression(value: Any) -> Any:
    """An int as a TIR constant."""
    return T.int64(value) if isinstance(value, int) else value


@dataclass(frozen=True)
class Place:
    """A value that lies in memory."""

    buffer: Any
    type: TensorType
    symbols: Symbols

    @property
    def columns(self) -> Any:
        return size_of(self.type.shape[-1], self.symbols) if self.type.shape else 1

    @property
    def stride(self) -> Any:
        return row_stride(self.type.dtype, self.columns) if self.type.shape else 1

    def offset(self, axes: Sequence[Any]) -> Any:
        """The position in the buffer of an index; the last axis is the column."""
        if not axes:
            return T.int64(0)
        sizes = [size_of(dim, self.symbols) for dim in self.type.shape[:-1]]
        return as_expression(ravel(axes[:-1], sizes) * self.stride + axes[-1])

    def load(self, axes: Sequence[Any], lanes: int) -> Vector:
        """Read `lanes` columns, the first at the index."""
        stored = STORED[self.type.dtype]
        raw = self.buffer.vload([self.offset(axes)], stored if lanes == 1 else f"{stored}x{lanes}")
        return elementary.hold(widen(raw, self.type.dtype))

    def store(self, axes: Sequence[Any], value: Vector) -> None:
        """Write the lanes of `value`, the first at the index."""
        narrowed = narrow(value, self.type.dtype)
        _, lanes = elementary.dtype_of(narrowed)
        offset = self.offset(axes)
        T.buffer_store(self.buffer, narrowed, [offset if lanes == 1 else T.ramp(offset, 1, lanes)])

    def fill_pad(self, lead: Sequence[Any]) -> None:
        """Write the zeros past the end of an int8 row."""
        if self.type.dtype is DType.I8:
            start = self.offset((*lead, 0))
            with T.serial(self.columns, self.stride) as column:
                T.buffer_store(self.buffer, T.int8(0), [start + column])


def prefetch(buffer: Any, offset: Any, cache: int, *, write: bool = False) -> None:
    """Ask for what is read or written later, into the first or the second cache.

    It may lie past the end.
    """
    how = T.int32(write), T.int32(4 - cache), T.int32(1)
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", T.address_of(buffer[offset]), *how))


def widen(raw: Vector, dtype: DType) -> Vector:
    """From the form in memory to the form in registers."""
    match dtype:
        case DType.BF16:
            return elementary.widen_bf16(raw)
        case DType.F16:
            return elementary.widen_f16(raw)
        case _:
            return elementary.convert(raw, COMPUTED[dtype])


def narrow(value: Vector, dtype: DType) -> Vector:
    """From the form in registers to the form in memory."""
    match dtype:
        case DType.BF16:
            return elementary.narrow_bf16(value)
        case DType.F16:
            return elementary.narrow_f16(value)
        case _:
            return elementary.convert(value, STORED[dtype])


def is_one(dim: Dim) -> bool:
    return not isinstance(dim, SymbolicDim) and dim == 1
