"""What a value is: an element type and a shape whose dimensions may be symbolic.

A dimension is an int or a `Dim`, a polynomial of symbols with integer coefficients such as `B*T +
3`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod

import ml_dtypes
import numpy as np

from mmc.ir.packing import Layout


class DType(Enum):
    """Element types; the packed ternary ones name a layout of `mmc.ir.packing`."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I8 = "i8"
    U8 = "u8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    BOOL = "bool"
    TERNARY = "ternary"
    TERNARY_2BIT = "ternary_2bit"
    TERNARY_1_67BIT = "ternary_1_67bit"
    TERNARY_1_6BIT = "ternary_1_6bit"

    def __str__(self) -> str:
        return self.value

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The numpy element type that holds it; packed ternary matrices are flat bytes."""
        return _NUMPY[self]

    @property
    def is_float(self) -> bool:
        return self in (DType.F32, DType.F16, DType.BF16)

    @property
    def is_ternary(self) -> bool:
        return self.value.startswith("ternary")

    @property
    def layout(self) -> Layout | None:
        """The packed layout's name in `mmc.ir.packing`, or None for an ordinary tensor."""
        return _LAYOUTS.get(self)

    @staticmethod
    def packed(layout: Layout) -> DType:
        return next(dtype for dtype, known in _LAYOUTS.items() if known == layout)


_LAYOUTS: dict[DType, Layout] = {
    DType.TERNARY_2BIT: "2bit",
    DType.TERNARY_1_67BIT: "1.67bit",
    DType.TERNARY_1_6BIT: "1.6bit",
}

_NUMPY: dict[DType, np.dtype[np.generic]] = {
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.I8: np.dtype(np.int8),
    DType.U8: np.dtype(np.uint8),
    DType.I16: np.dtype(np.int16),
    DType.I32: np.dtype(np.int32),
    DType.I64: np.dtype(np.int64),
    DType.BOOL: np.dtype(np.bool_),
    DType.TERNARY: np.dtype(np.int8),
    DType.TERNARY_2BIT: np.dtype(np.uint8),
    DType.TERNARY_1_67BIT: np.dtype(np.uint8),
    DType.TERNARY_1_6BIT: np.dtype(np.uint8),
}

Monomial = tuple[str, ...]


@dataclass(frozen=True)
class SymbolicDim:
    """A polynomial: its monomials (sorted tuples of symbols) with their coefficients, sorted."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        return _dim([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __mul__(self, other: Dim) -> Dim:
        return _dim(
            (tuple(sorted(left + right)), a * b)
            for left, a in self.terms
            for right, b in _terms(other)
        )

    __rmul__ = __mul__

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: int) -> Dim:
        return self * -1 + other

    def __str__(self) -> str:
        text = ""
        for monomial, coefficient in self.terms:
            size = abs(coefficient)
            factors = [str(size)] * (size != 1 or not monomial) + list(monomial)
            sign = ("-" if coefficient < 0 else "") if not text else "+-"[coefficient < 0]
            text += sign + "*".join(factors)
        return text

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset(name for monomial, _ in self.terms for name in monomial)


Dim = int | SymbolicDim
Shape = tuple[Dim, ...]


def _terms(dim: Dim) -> Iterable[tuple[Monomial, int]]:
    return dim.terms if isinstance(dim, SymbolicDim) else (((), dim),)


def _dim(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    # The constant comes last, as one writes it: T+3.
    order = sorted(total, key=lambda m: (not m, m))
    kept = tuple((m, total[m]) for m in order if total[m])
    if not kept:
        return 0
    return kept[0][1] if kept[0][0] == () else SymbolicDim(kept)


def symbol(name: str) -> SymbolicDim:
    """The dimension called `name`; raise ValueError where that is no name."""
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
        raise ValueError(f"{name!r} is not the name of a dimension")
    return SymbolicDim((((name,), 1),))


def bind_dim(dim: Dim, values: Mapping[str, int]) -> Dim:
    """Put numbers in for symbols; symbols without a number stay."""
    return _dim(
        (tuple(s for s in monomial if s not in values),
         coefficient * prod(values[s] for s in monomial if s in values))
        for monomial, coefficient in _terms(dim)
    )  # fmt: skip


def parse_dim(text: str) -> Dim:
    """Read `B*T+3`; raise ValueError where it is not a dimension."""
    if not re.fullmatch(r"-?[\w.]+(\*[\w.]+)*([+-][\w.]+(\*[\w.]+)*)*", text):
        raise ValueError(f"{text!r} is not a dimension")
    total: Dim = 0
    for sign, product in re.findall(r"([+-]?)([\w.*]+)", text):
        term: Dim = -1 if sign == "-" else 1
        for factor in product.split("*"):
            term = term * (int(factor) if factor.isdigit() else symbol(factor))
        total = total + term
    return total


def numel(shape: Shape) -> Dim:
    """The number of elements, as a dimension."""
    count: Dim = 1
    for dim in shape:
        count = count * dim
    return count


@dataclass(frozen=True)
class TensorType:
    dtype: DType
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    @property
    def rank(self) -> int:
        return len(self.shape)

    def with_shape(self, shape: Shape) -> TensorType:
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def bind(self, values: Mapping[str, int]) -> TensorType:
        return TensorType(self.dtype, bind_shape(self.shape, values))


def bind_shape(shape: Shape, values: Mapping[str, int]) -> Shape:
    return tuple(bind_dim(dim, values) for dim in shape)


def static_shape(shape: Shape) -> tuple[int, ...]:
    """The shape as plain ints; raise ValueError where a symbol is left."""
    if symbolic := [str(d) for d in shape if isinstance(d, SymbolicDim)]:
        raise ValueError(f"dimension {symbolic[0]} has no value yet")
    return tuple(d for d in shape if isinstance(d, int))


def broadcast(*shapes: Shape) -> Shape:
    """The common shape by numpy's rule, 1 giving way; raise ValueError where there is none."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    result: list[Dim] = []
    for dims in zip(*padded, strict=True):
        wide = {dim for dim in dims if dim != 1}
        if len(wide) > 1:
            spelt = " and ".join(f"[{', '.join(map(str, s))}]" for s in shapes)
            raise ValueError(f"shapes {spelt} do not broadcast")
        result.append(wide.pop() if wide else 1)
    return tuple(result)
