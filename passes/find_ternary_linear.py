"""Find linear layers whose weights are ternary, by value: a scale times {-1, 0, 1}.

The scale may be one for the tensor, one a row, or one a group of 32 to 256 columns (BitNet b1.58,
arXiv:2402.17764, has one a tensor).  The weight turns into `expand_ternary(trits, scale)`, which
has the same values, and leaves the layer itself alone.  Weights that are integers are trits as they
are: there the scale is one and comes after the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.pointwise import Cast
from mmc.ir.ops.source import Weight
from mmc.ir.ops.ternary import ExpandTernary
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, TensorType
from mmc.passes.base import Log, Pass
from mmc.passes.ternary_values import TernaryMatrix, find_ternary


@dataclass(frozen=True)
class FindTernaryLinear(Pass):
    name: ClassVar[str] = "find-ternary-linear"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        found: dict[Weight, Value] = {}
        for op in graph:
            if isinstance(op, Linear):
                self._look(op, found, tensors, log)
        return graph.map(
            lambda old, moved: found.get(old, moved) if isinstance(old, Weight) else moved
        )

    def _look(self, op: Linear, found: dict[Weight, Value], tensors: Tensors, log: Log) -> None:
        if not isinstance(op.w, Weight):
            return log.skip(op, f"dense: its weight is made by {op.w!r} from an input")
        matrix = find_ternary(tensors[op.w.name].astype("float32"))
        if isinstance(matrix, str):
            return log.skip(op, f"{op.w.name}: {matrix}")
        if not op.w.type.dtype.is_float and (matrix.deviation or (matrix.scale != 1).any()):
            return log.skip(op, f"{op.w.name}: integers other than {{-1, 0, 1}}")
        found[op.w] = _expanded(op.w, matrix, tensors)
        log.fire(op, matrix.kind, f"{op.w.name}: {matrix}")


def _expanded(weight: Weight, matrix: TernaryMatrix, tensors: Tensors) -> Op:
    stem = weight.name.removesuffix(".folded")
    trits = tensors.add(f"{stem}.trits", TensorType(DType.TERNARY, weight.type.shape), matrix.trits)
    if not weight.type.dtype.is_float:  # of integers the scale is one
        return Cast(trits, weight.type.dtype)
    scale = tensors.add(f"{stem}.scale", TensorType(DType.F32, matrix.scale.shape), matrix.scale)
    return ExpandTernary(trits, scale)


PASS = FindTernaryLinear
