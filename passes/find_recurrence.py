"""Find linear recurrences: prove that a scan's body is h' = a * h + b, element by element.

Then the whole sequence of a and b is known before the first step, and the memory is one
`linear_recurrence` (arXiv:2406.02528, section 3.3.1) that a target can step or scan.  A state
that is mixed by a matrix ("dense") or squashed ("nonlinear", as in a GRU) is left alone, with the
reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin, producer
from mmc.ir.ops import pointwise
from mmc.ir.ops.recurrence import LinearRecurrence, Scan
from mmc.ir.ops.shape import Expand, Reshape, Slice
from mmc.ir.ops.source import Constant, Iota, scalar
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, Shape
from mmc.passes.affine import Affine, NotAffine, analyse
from mmc.passes.base import Log, Pass

ELEMENTWISE = (pointwise.Unary, pointwise.Binary, pointwise.Where)


class _NotLifted(Exception):
    """The body does something that has no counterpart on whole sequences."""


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
        sequences = _Sequences(scan)
        proofs = [sequences.add_state(index) for index in range(len(scan.init))]
        results = sequences.results()
    except _NotLifted as reason:
        log.skip(old, str(reason))
        return ()
    for proof in proofs:
        log.fire(old, "elementwise-affine", proof)
    return tuple(results)


class _Sequences:
    """The body of a scan, over whole sequences instead of single steps."""

    def __init__(self, scan: Scan) -> None:
        self.scan, self.axis = scan, scan.axis
        names = scan.body.inputs
        n = len(scan.init)
        steps = len(scan.xs)
        self.states = names[:n]
        self.time = scan.xs[0].type.shape[scan.axis]
        self.rank = max(op.type.rank for op in names)
        self.lifted: dict[Value, Value] = {}
        for inner, outer in zip(names[n : n + steps], scan.xs, strict=True):
            self.lifted[inner] = self._stepped(outer)
        for inner, outer in zip(names[n + steps :], scan.captured, strict=True):
            self.lifted[inner] = self._captured(outer)

    def _stepped(self, value: Value) -> Value:
        """What a step sees of it broadcasts from the right: with a time axis, all axes count."""
        missing = self.rank - (value.type.rank - 1)
        if missing == 0:
            return value
        time, *rest = value.type.shape
        if self.axis != 0:
            raise _NotLifted(f"a sequence {value.type} has fewer axes than the others: kept")
        return Reshape(value, (time, *(1,) * missing, *rest))

    def _captured(self, value: Value) -> Value:
        """A captured value is the same at every step: its time axis has length 1."""
        shape = value.type.shape
        if len(shape) <= self.rank - self.axis and len(shape) < self.rank:
            return value  # broadcasts from the right, past the time axis
        padded = (1,) * (self.rank - len(shape)) + shape
        return Reshape(value, (*padded[: self.axis], 1, *padded[self.axis :]))

    def add_state(self, index: int) -> str:
        """Turn one state into a linear recurrence; say what it is."""
        state, (_, new) = self.states[index], self.scan.body.outputs[index]
        if state.type.dtype is not DType.F32:
            raise _NotLifted(f"state {state.name} is {state.type}, not f32")
        if state.type.rank != self.rank:
            raise _NotLifted(f"state {state.name} is {state.type}: other values have more axes")
        for other in self.states:
            if other is not state and analyse(self.scan.body, other)[new] is not None:
                raise _NotLifted(
                    f"state {state.name} depends on state {other.name}: not a recurrence each"
                )
        found = analyse(self.scan.body, state)[new]
        if isinstance(found, NotAffine):
            raise _NotLifted(found.why)
        if found is None:
            raise _NotLifted(f"state {state.name} does not depend on its past: no recurrence")
        a, b = self._sequence(found, state.type.shape)
        h = LinearRecurrence(a, b, self.scan.init[index], self.axis)
        if new is not state:
            self.lifted[new] = h
        return f"h' = a*h + b, element by element, state {state.type}"

    def _sequence(self, found: Affine, step: Shape) -> tuple[Value, Value]:
        full = (*step[: self.axis], self.time, *step[self.axis :])
        one, zero = Expand(scalar(1.0), full), Expand(scalar(0.0), full)
        a = one if found.a is None else _expanded(self._lift(found.a), full)
        return a, zero if found.b is None else _expanded(self._lift(found.b), full)

    def _lift(self, value: Value) -> Value:
        """A value of the body, over the whole sequence."""
        if value in self.lifted:
            return self.lifted[value]
        op = producer(value)
        if op in self.states:
            raise _NotLifted(f"reads state {op.attributes['name']} from before the step")
        if isinstance(op, Constant | Iota) and not op.type.shape:
            return op
        if not isinstance(op, ELEMENTWISE):
            raise _NotLifted(f"{op.mnemonic} in the body is not element-wise: the scan is kept")
        lifted = op.rebuild(self._lift)
        self.lifted[value] = lifted
        return lifted

    def results(self) -> list[Value]:
        """The last carries, then the ys, as `Scan` has them."""
        n = len(self.scan.init)
        values = [self._lift(value) for value in self.scan.body.values]
        lasts = [
            Reshape(Slice(h, self.axis, self.time - 1, 1), result.type.shape)
            for h, result in zip(values[:n], self.scan.results, strict=False)
        ]
        ys = [
            _expanded(y, result.type.shape)
            for y, result in zip(values[n:], self.scan.results[n:], strict=True)
        ]
        return [*lasts, *ys]


def _expanded(value: Value, shape: Shape) -> Value:
    return value if value.type.shape == shape else Expand(value, shape)


PASS = FindRecurrence
