"""A dense matrix stays in memory in the numbers that it was stored in, and is widened when read.

Folding turned bf16 numbers, or codes of 8 or 4 bits, into float32: two to seven times the bytes,
for the same values.  Generating a token reads each matrix once and computes little with it, so
bytes are its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.int4 import DequantizeInt4
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.pointwise import Add, Cast
from mmc.ir.ops.source import Constant, Weight
from mmc.ir.tensors import Tensors
from mmc.passes.base import Log, Pass


@dataclass(frozen=True)
class NarrowWeights(Pass):
    name: ClassVar[str] = "narrow-weights"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        def step(old: Op, moved: Op) -> Value | Op:
            if not isinstance(moved, Linear) or not isinstance(old, Linear):
                return moved
            stored = _stored(moved.w, tensors) if len(graph.users[producer(old.w)]) == 1 else None
            if stored is None:
                log.skip(old, "its matrix is not a wider copy of a stored one of its own")
                return moved
            log.fire(old, "narrow", f"reads {stored[0].name} as {stored[0].type.dtype}")
            return Linear(moved.x, stored[1], moved.bias)

        return graph.map(step)


def _stored(w: Value, tensors: Tensors) -> tuple[Weight, Value] | None:
    """The narrower matrix that `w` was folded from, and how it is widened."""
    recipe = tensors.recipe(w.name) if isinstance(w, Weight) else None
    if recipe is None:
        return None
    value = recipe
    while isinstance(value, Cast) or (isinstance(value, Add) and isinstance(value.y, Constant)):
        value = value.x
    if isinstance(value, DequantizeInt4) and isinstance(value.steps, Weight):
        value = value.codes
    narrower = value.type.dtype.numpy.itemsize < w.type.dtype.numpy.itemsize
    return (value, recipe) if isinstance(value, Weight) and narrower else None


PASS = NarrowWeights
