"""Find linear recurrences: prove that a scan's body is h' = a * h + b, element by element.

Then the whole sequence of a and b is known before the first step, and the memory is one
`linear_recurrence` (arXiv:2406.02528, section 3.3.1) that a target can step or scan.  A state
that is mixed by a matrix ("dense") or squashed ("nonlinear", as in a GRU) is left alone, with the
reason.  One that is kept divided by exp of a running maximum stays a scan, too, but it is linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin
from mmc.ir.ops.recurrence import LinearRecurrence, Scan
from mmc.ir.ops.shape import Reshape, Slice
from mmc.ir.ops.source import scalar
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, Shape
from mmc.passes.affine import Affine, NotAffine, analyse
from mmc.passes.base import Log, Pass
from mmc.passes.over_time import NotLifted, OverTime
from mmc.passes.stabilised import stabilised


@dataclass(frozen=True)
class FindRecurrence(Pass):
    name: ClassVar[str] = "find-recurrence"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        def step(old: Op, moved: Op) -> Value | tuple[Value, ...]:
            if not isinstance(moved, Scan):
                return moved
            with origin(old.origin):
                return _lift(old, moved, log) or moved

        return graph.map(step)


def _lift(old: Op, scan: Scan, log: Log) -> tuple[Value, ...]:
    """What each result of the scan is without it; nothing where a state is not linear."""
    try:
        sequences = _Recurrences(scan)
        proofs = [sequences.add_state(index) for index in range(len(scan.init))]
        results = sequences.results()
    except NotLifted as reason:
        states = scan.body.inputs[: len(scan.init)]
        if top := stabilised(scan.body, states):
            why = f"times exp({top.name}) a state is h' = a*h + b, element by element"
            log.fire(old, "stabilised", why)
        else:
            log.skip(old, str(reason))
        return ()
    for proof in proofs:
        log.fire(old, "elementwise-affine", proof)
    return tuple(results)


class _Recurrences(OverTime):
    """The body of a scan over whole sequences, with a linear recurrence for each state."""

    def __init__(self, scan: Scan) -> None:
        super().__init__(scan)
        self.scan = scan

    def add_state(self, index: int) -> str:
        """Turn one state into a linear recurrence; say what it is."""
        state, (_, new) = self.states[index], self.scan.body.outputs[index]
        if state.type.dtype is not DType.F32:
            raise NotLifted(f"state {state.name} is {state.type}, not f32")
        found = analyse(self.scan.body, state)[new]
        if isinstance(found, NotAffine):
            raise NotLifted(found.why)
        for other in self.states:
            if other is not state and analyse(self.scan.body, other)[new] is not None:
                raise NotLifted(
                    f"state {state.name} depends on state {other.name}: not a recurrence each"
                )
        if found is None:
            raise NotLifted(f"state {state.name} does not depend on its past: no recurrence")
        a, b = self._sequence(found, state.type.shape)
        h = LinearRecurrence(a, b, self.scan.init[index], self.axis)
        if new is not state:
            self.lifted[new] = h
        return f"h' = a*h + b, element by element, state {state.type}"

    def _sequence(self, found: Affine, step: Shape) -> tuple[Value, Value]:
        one, zero = scalar(1.0), scalar(0.0)
        a = one if found.a is None else found.a
        return self.expanded(a, step), self.expanded(zero if found.b is None else found.b, step)

    def results(self) -> list[Value]:
        """The last carries, then the ys, as `Scan` has them."""
        n = len(self.scan.init)
        values = self.scan.body.values
        lasts = [
            Reshape(Slice(self.lift(h), self.axis, self.time - 1, 1), result.type.shape)
            for h, result in zip(values[:n], self.scan.results, strict=False)
        ]
        return [*lasts, *(self.expanded(y, y.type.shape) for y in values[n:])]


PASS = FindRecurrence
