"""Projections that read one int8 vector become one: a single stream of weights, a single kernel.

Gate and up of a GLU, or i, f and g of an MLGRU without inner norms.  Exact: each row of the sum is
what it was, only stacked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin
from mmc.ir.ops.shape import Concat, Slice
from mmc.ir.ops.source import Weight
from mmc.ir.ops.ternary import TernaryMatmul
from mmc.ir.tensors import Tensors
from mmc.ir.types import Dim, DType, TensorType
from mmc.passes.base import Log, Pass, place


@dataclass(frozen=True)
class MergeProjections(Pass):
    name: ClassVar[str] = "merge-projections"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        groups: dict[Value, list[TernaryMatmul]] = {}
        for op in graph:
            if isinstance(op, TernaryMatmul) and _is_unpacked(op.w):
                groups.setdefault(op.x, []).append(op)
        parts: dict[Op, tuple[Weight, int]] = {}
        for members in groups.values():
            if len(members) == 1:
                log.skip(members[0], "no other projection reads its int8 vector")
                continue
            merged = _stack(members, tensors)
            start = 0
            for op in members:
                parts[op] = merged, start
                start += _rows(op)
                log.fire(op, "merge", f"one matrix {merged.name} of {len(members)} projections")

        def step(old: Op, moved: Op) -> Value:
            if old not in parts or not isinstance(moved, TernaryMatmul):
                return moved
            weight, start = parts[old]
            with origin(old.origin):
                return Slice(TernaryMatmul(moved.x, weight), -1, start, _rows(moved))

        return graph.map(step)


def _is_unpacked(w: Value) -> bool:
    return isinstance(w, Weight) and w.type.dtype is DType.TERNARY


def _rows(op: TernaryMatmul) -> int:
    rows: Dim = op.w.type.shape[0]
    assert isinstance(rows, int)
    return rows


def _stack(members: list[TernaryMatmul], tensors: Tensors) -> Weight:
    rows, columns = sum(map(_rows, members)), members[0].w.type.shape[1]
    name = "+".join(place(op).rsplit(".", 1)[-1] for op in members)
    path = place(members[0]).rsplit(".", 1)[0]
    declared = TensorType(DType.TERNARY, (rows, columns))
    return tensors.add(f"{path}.{name}.trits", declared, Concat(tuple(op.w for op in members), 0))


PASS = MergeProjections
