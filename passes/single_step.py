"""One step needs no loop over steps: a recurrence of one step is a multiplication and an addition.

Where the axis of a recurrence has length 1, it becomes h = a * h0 + b, which goes element by
element and so joins the kernels before and behind it; and the one position of an axis needs no
looking up and no cutting out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin
from mmc.ir.ops.pointwise import Add, Mul
from mmc.ir.ops.recurrence import LinearRecurrence
from mmc.ir.ops.shape import Reshape, Slice, TakePosition
from mmc.ir.tensors import Tensors
from mmc.passes.base import Log, Pass


@dataclass(frozen=True)
class SingleStep(Pass):
    name: ClassVar[str] = "single-step"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        def step(old: Op, moved: Op) -> Op | Value:
            match moved:
                case LinearRecurrence() if moved.type.shape[moved.axis] == 1:
                    log.fire(old, "step", "one step: a * h0 + b")
                    with origin(old.origin):
                        before = Reshape(moved.h0, moved.type.shape)
                        return Add(Mul(moved.a, before), moved.b)
                case TakePosition() if moved.x.type.shape[1] == 1:
                    log.fire(old, "take", "there is one position")
                    return moved.x
                case Slice() if moved.type == moved.x.type:
                    log.fire(old, "slice", "it takes the whole axis")
                    return moved.x
                case _:
                    return moved

        return graph.map(step)


PASS = SingleStep
