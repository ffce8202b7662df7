"""What `to-fixed-point` knows of a graph while it lowers it, operation by operation."""

from __future__ import annotations

from dataclasses import dataclass

from mmc.ir.graph import Graph
from mmc.ir.op import Value
from mmc.ir.ops import fixed
from mmc.ir.tensors import Tensors
from mmc.ir.types import static_shape
from mmc.passes.base import Log
from mmc.passes.fixed_ranges import Integers, Ranges, scalar_of


@dataclass(frozen=True)
class Number:
    """Integers that stand for real numbers: real = value * 2^-fraction, at most `bound`."""

    value: Value
    bits: int
    fraction: int
    bound: float


@dataclass(frozen=True)
class Codes:
    """int8 codes: real = q * m * 2^-e * unit."""

    q: Value
    m: Value
    e: Value
    unit: float


class Numbers:
    """What has become of the floats of a graph on its way."""

    def __init__(self, graph: Graph, tensors: Tensors, log: Log) -> None:
        self.graph, self.log = graph, log
        self.ranges = Ranges(graph, tensors)
        self.integers = Integers(self.ranges)
        self.numbers: dict[Value, Number] = {}
        self.codes: dict[Value, Codes] = {}
        self.outputs: dict[Value, Value] = {}

    def plain_norm(self, x: Number, eps: float) -> fixed.FixedNormalize:
        (columns,) = static_shape(x.value.type.shape[-1:])
        mantissa, exponent = scalar_of(eps * columns * 4.0**x.fraction) if eps else (0, 0)
        return fixed.FixedNormalize(x.value, None, mantissa, -exponent)
