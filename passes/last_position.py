"""Compute the head for the last position of each prompt only.

To go on with a text one needs the logits of its last position, not of all; and what is
position-wise (norms, quantisers, projections, gates) can take that position first.  The pass
takes it as early as the data flow allows: right behind the last recurrence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmc.errors import MmcError
from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin
from mmc.ir.ops.logic import Where
from mmc.ir.ops.pointwise import Binary, Sub
from mmc.ir.ops.shape import TakePosition
from mmc.ir.ops.source import scalar
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, Shape
from mmc.passes.base import Log, Pass


@dataclass(frozen=True)
class LastPosition(Pass):
    """output: the output [B, T, ...] that shrinks to [B, 1, ...].  lengths: the input i64[B]."""

    name: ClassVar[str] = "last-position"
    output: str = "logits"
    lengths: str = "lengths"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        lengths = next((op for op in graph.inputs if op.name == self.lengths), None)
        outputs = dict(graph.outputs)
        if lengths is None or self.output not in outputs:
            missing = f"input {self.lengths!r}" if lengths is None else f"output {self.output!r}"
            raise MmcError(f"@{graph.name} has no {missing}", self.name)
        last = Sub(lengths, scalar(1, DType.I64))
        top = outputs.pop(self.output)
        needed = set(Graph("needed", (), tuple(outputs.items())).ops)
        leading = top.type.shape[:2]
        narrowed: dict[Value, Value] = {}

        def narrow(value: Value) -> Value:
            if value in narrowed:
                return narrowed[value]
            per_position = value.type.rank >= 2 and value.type.shape[:2] == leading
            return TakePosition(value, last) if per_position else value

        for op in Graph("head", (), ((self.output, top),)).ops:
            if op in needed or not _goes_by_position(op, leading):
                continue
            with origin(op.origin):
                narrowed |= zip(op.results, op.rebuild(narrow).results, strict=True)
            log.fire(
                op, "take", "nothing but the head reads it: computed for the last position alone"
            )
        last_logits = narrow(top)
        values = tuple((n, last_logits if n == self.output else v) for n, v in graph.outputs)
        return Graph(graph.name, graph.inputs, values), {v: v for op in needed for v in op.results}


def _goes_by_position(op: Op, leading: Shape) -> bool:
    """True where the result at one position needs its operands at that position only.

    With two axes the last one is the position, which norms and projections mix.
    """
    shape = op.types[0].shape
    if not (op.operands and op.positionwise and shape[:2] == leading and len(shape) > 2):
        return False
    along = [v.type.shape for v in op.operands] if isinstance(op, Binary | Where) else []
    return all(len(s) < len(shape) - 1 or s[1 - len(shape)] == 1 or s[:2] == leading for s in along)


PASS = LastPosition
