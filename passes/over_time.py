"""A step over all of its steps: what a scan's body computes, as operations on whole sequences.

Only states make a step wait for the one before it.  The rest is computed for all steps at once: a
projection inside of a cell becomes one product.  A value of the body [...] is lifted to
[..., T, ...] with the time where the scan has it; what depends on no step is moved out as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmc.ir.op import Op, Value, producer
from mmc.ir.ops import logic, pointwise
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.norm import LayerNorm, RmsNorm
from mmc.ir.ops.recurrence import Scan
from mmc.ir.ops.reduce import Max, Mean, Sum
from mmc.ir.ops.shape import Concat, Expand, Reshape, Slice
from mmc.ir.types import Shape

ELEMENTWISE = (pointwise.Unary, pointwise.Binary, logic.Where)
ON_LAST_AXIS = (Linear, RmsNorm, LayerNorm)
ALONG_AN_AXIS = (Sum, Mean, Max, Slice, Concat)


class NotLifted(Exception):
    """The body does something that has no counterpart on whole sequences."""


class OverTime:
    """Lifts the values of a scan's body; `lifted` is told what the states are."""

    def __init__(self, scan: Scan) -> None:
        self.axis = scan.axis
        self.time = scan.xs[0].type.shape[scan.axis]
        n, steps = len(scan.init), len(scan.xs)
        names = scan.body.inputs
        self.states = names[:n]
        self.lifted: dict[Value, Value] = dict(zip(names[n : n + steps], scan.xs, strict=True))
        self._outside: dict[Value, Value | None] = dict.fromkeys(names[: n + steps])
        self._outside |= zip(names[n + steps :], scan.captured, strict=True)

    def full(self, step: Shape) -> Shape:
        """The shape of a value of every step."""
        return (*step[: self.axis], self.time, *step[self.axis :])

    def outside(self, value: Value) -> Value | None:
        """The value where it is the same at every step, outside of the scan; else None."""
        if value not in self._outside:
            op = producer(value)
            moved = [self.outside(operand) for operand in op.operands]
            known = {o: m for o, m in zip(op.operands, moved, strict=True) if m is not None}
            results = (None,) * len(op.results)
            if len(known) == len(set(op.operands)):
                results = op.rebuild(known.__getitem__).results
            self._outside |= zip(op.results, results, strict=True)
        return self._outside[value]

    def aligned(self, value: Value, rank: int) -> Value:
        """The value over all steps, to be broadcast with others whose step has `rank` axes."""
        own, fixed = value.type.shape, self.outside(value)
        if fixed is not None and len(own) <= rank - self.axis and len(own) < rank:
            return fixed  # broadcasts from the right, past the time axis
        if fixed is None and len(own) == rank:
            return self.lift(value)
        padded = (1,) * (rank - len(own)) + own
        if fixed is not None:
            return Reshape(fixed, (*padded[: self.axis], 1, *padded[self.axis :]))
        if self.axis != 0:
            raise NotLifted(f"a sequence {value.type} has fewer axes than the others: kept")
        return Reshape(self.lift(value), (self.time, *padded))

    def expanded(self, value: Value, step: Shape) -> Value:
        """The value over all steps in the shape of a step."""
        made = self.aligned(value, len(step))
        return made if made.type.shape == self.full(step) else Expand(made, self.full(step))

    def lift(self, value: Value) -> Value:
        """The value of every step."""
        if value in self.lifted:
            return self.lifted[value]
        op = producer(value)
        if op in self.states:
            raise NotLifted(f"reads state {op.attributes['name']} from before the step")
        made = self._lift(op)
        self.lifted[value] = made
        return made

    def _lift(self, op: Op) -> Value:
        if isinstance(op, ELEMENTWISE):
            return op.rebuild(lambda v: self.aligned(v, op.type.rank))
        if isinstance(op, Expand):
            return self.expanded(op.x, op.shape)
        if isinstance(op, ON_LAST_AXIS) and op.x.type.rank > self.axis:
            rest = [v for v in op.operands if v is not op.x]
            if all(self.outside(v) is not None for v in rest):
                return op.rebuild(lambda v: self.lift(v) if v is op.x else self._fixed(v))
        if isinstance(op, Matmul) and min(v.type.rank for v in op.operands) > self.axis + 1:
            rank = op.type.rank
            return op.rebuild(lambda v: self.aligned(v, rank))
        if isinstance(op, ALONG_AN_AXIS) and (axis := self._axis_of(op)) is not None:
            moved: Any = op.rebuild(lambda v: self.expanded(v, v.type.shape))
            return replace(moved, axis=axis)
        if isinstance(op, Reshape) and op.shape[: self.axis] == op.x.type.shape[: self.axis]:
            return Reshape(self.lift(op.x), self.full(op.shape))
        raise NotLifted(f"{op.mnemonic} in the body goes over more than a step: the scan is kept")

    def _fixed(self, value: Value) -> Value:
        found = self.outside(value)
        assert found is not None
        return found

    def _axis_of(self, op: Sum | Mean | Max | Slice | Concat) -> int | None:
        """Where the operation's axis is among those of a sequence; None where the time moves."""
        axis = op.axis % op.operands[0].type.rank
        keeps_rank = op.type.rank == op.operands[0].type.rank
        if axis < self.axis:
            return axis if keeps_rank else None
        return axis + 1
