"""How large a number can become, from a model's weights alone; and weights as integers.

A normalised vector of K numbers has a length of at most sqrt(K), whatever went in.  So a row t of
a ternary matrix, with gains g, gives at most (Cauchy-Schwarz)

    scale * sqrt(K) * sqrt(sum of g[k]^2 where t[k] is not 0)

and rounding to int8 adds half a step for each k, where a step is at most sqrt(K) * max|g| / 127.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

from mmc.errors import MmcError
from mmc.ir.fixed_point import ONE, WIDE
from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.pointwise import Add
from mmc.ir.ops.shape import Gather, Reshape, Slice
from mmc.ir.ops.source import Weight
from mmc.ir.ops.ternary import Dequantize, RmsNormQuantize, ScaleQuantize, TernaryMatmul
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, TensorType, static_shape

MOST_COLUMNS = (1 << 23) // 127
"""With more, a sum of int8 codes could leave its 24 bits."""

MARGIN = 1.01
"""Room for what cut mantissas and rounding add."""

_CHUNK = 1 << 24
"""Weights worked on at a time."""


def scalar_of(real: float) -> tuple[int, int]:
    """(m, e) with real about m * 2^-e and 2^15 <= m < 2^16; real is above zero."""
    part, exponent = math.frexp(real)
    mantissa = round(part * (1 << 16))
    return (mantissa, 16 - exponent) if mantissa < 1 << 16 else (1 << 15, 15 - exponent)


def fraction_for(bound: float, bits: int) -> int:
    """The most fraction bits with which a number up to `bound` fits a sign and bits - 1 others."""
    return bits - 1 - math.ceil(math.log2(max(bound * MARGIN, 2.0**-100)))


def as_integers(values: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """(integers, fraction) of a vector or table, its largest number just within `bits`."""
    real = values.astype(np.float64)
    fraction = fraction_for(float(np.abs(real).max(initial=0.0)), bits)
    return np.rint(np.ldexp(real, fraction)).astype(np.int64), fraction


def product_bound(trits: np.ndarray, gain: np.ndarray, scale: float) -> float:
    """The largest number in a ternary product of a normalised vector of K numbers times gains."""
    rows, columns = trits.shape
    squares = np.square(gain, dtype=np.float64)
    half_step = 0.5 / 127 * math.sqrt(squares.max())
    largest = 0.0
    step = max(1, _CHUNK // columns)
    for first in range(0, rows, step):
        taken = trits[first : first + step] != 0
        sums = np.sqrt(taken @ squares) + half_step * taken.sum(1)
        largest = max(largest, float(sums.max()))
    return abs(scale) * math.sqrt(columns) * largest


def largest_of(gain: np.ndarray) -> float:
    """The largest number of a normalised vector times gains."""
    return math.sqrt(len(gain)) * float(np.abs(gain).max())


def refusal(what: str, op: Op) -> MmcError:
    return MmcError(what, str(op.origin or op.mnemonic), "--target reference runs it in floats")


class Ranges:
    """What the weights of one graph say."""

    def __init__(self, graph: Graph, tensors: Tensors) -> None:
        self.graph, self.tensors = graph, tensors

    @cached_property
    def bounds(self) -> dict[Op, float]:
        """What no result of a projection exceeds."""
        return {op: self._bound(op) for op in self.graph if isinstance(op, Dequantize)}

    @cached_property
    def stream_fraction(self) -> int:
        """Fraction bits of the residual stream: no layer may push it out of its 27 bits."""
        total, most = 0.0, WIDE
        for op in self.graph:
            if isinstance(op, Gather) and op.type.dtype.is_float:
                total += float(np.abs(self.floats(op.table)).max(initial=0.0))
            if isinstance(op, Dequantize) and self.is_residual(op):
                total += self.bounds[op]
                # The step of a code stays below 2^14 units: the shift behind a product is >= 1.
                step = largest_of(self._product_gain(self.product(op))) / 127 * self.scale(op)
                most = min(most, math.floor(14 - math.log2(max(step, 2.0**-60))))
        return min(fraction_for(total, WIDE), most)

    def is_residual(self, op: Op) -> bool:
        """True where the residual stream, and nothing else, takes it in."""
        users = self.graph.users[op]
        return bool(users) and all(isinstance(user, Add) for user in users)

    def reaches(self, op: Op, kinds: tuple[type[Op], ...]) -> bool:
        """True where an operation of these kinds reads it, or a part of it."""
        return any(
            isinstance(user, kinds)
            or (isinstance(user, Slice | Reshape) and self.reaches(user, kinds))
            for user in self.graph.users[op]
        )

    def product(self, op: Dequantize) -> TernaryMatmul:
        if not isinstance(op.q, TernaryMatmul):
            raise refusal(f"dequantizes a {producer(op.q).mnemonic}, not a ternary product", op)
        return op.q

    def scale(self, op: Dequantize) -> float:
        """The scale of the weights."""
        scale = np.ones(1) if op.w is None else self.floats(op.w)
        if scale.size != 1 or not scale.item() > 0:
            raise refusal(f"its weights have {scale.size} scales, not one above zero", op)
        return scale.item()

    def floats(self, value: Value) -> np.ndarray:
        if not isinstance(value, Weight):
            raise refusal(f"reads a {producer(value).mnemonic}, not a weight", producer(value))
        return np.asarray(self.tensors[value.name], np.float64)

    def gain(self, value: Value | None, columns: int) -> np.ndarray:
        return np.ones(columns) if value is None else self.floats(value)

    def _bound(self, op: Dequantize) -> float:
        product = self.product(op)
        weight = product.w
        if not isinstance(weight, Weight) or weight.type.dtype is not DType.TERNARY:
            raise refusal("the ternary weights are packed already", op)
        _, columns = static_shape(weight.type.shape)
        if columns > MOST_COLUMNS:
            raise refusal(f"{columns} columns, and sums have room for {MOST_COLUMNS}", op)
        return product_bound(self.tensors[weight.name], self._product_gain(product), self.scale(op))

    def _product_gain(self, op: TernaryMatmul) -> np.ndarray:
        made = producer(op.x)
        if not isinstance(made, RmsNormQuantize | ScaleQuantize):
            raise refusal(f"its input is quantised by {made.mnemonic}, without a norm", op)
        (columns,) = static_shape(made.x.type.shape[-1:])
        return self.gain(made.gain, columns)


class Integers:
    """Weights as integers, each made once."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._made: dict[tuple[str, DType], tuple[Weight, int]] = {}

    def sixteen(self, value: Value) -> tuple[Weight, int]:
        """Gains or a table in 16 bits, and their fraction."""
        integers, fraction = as_integers(self._ranges.floats(value), 16)
        return self._named(value, DType.I16, integers, fraction)

    def gain(self, value: Value | None) -> tuple[Weight | None, int]:
        """Gains in 16 bits; without gains everything is multiplied by 2^15."""
        return (None, 15) if value is None else self.sixteen(value)

    def gate(self, value: Value) -> Weight:
        """Numbers from 0 to 1, as 0 to 65535."""
        real = self._ranges.floats(value)
        integers = np.minimum(np.rint(real * ONE), ONE - 1)
        return self._named(value, DType.I32, integers, 16)[0]

    def derived(self, name: str, dtype: DType, made: Callable[[], np.ndarray]) -> Weight:
        """A table that follows from something else."""
        if (name, dtype) not in self._made:
            array = made()
            weight = self._ranges.tensors.add(name, TensorType(dtype, array.shape), array)
            self._made[name, dtype] = weight, 0
        return self._made[name, dtype][0]

    def _named(
        self, value: Value, dtype: DType, integers: np.ndarray, fraction: int
    ) -> tuple[Weight, int]:
        assert isinstance(value, Weight)
        key = value.name, dtype
        if key not in self._made:
            made = integers.astype(dtype.numpy)
            name = f"{value.name}.{dtype}"
            weight = self._ranges.tensors.add(name, TensorType(dtype, made.shape), made)
            self._made[key] = weight, fraction
        return self._made[key]
