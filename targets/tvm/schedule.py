"""Which outputs of a kernel are computed in one loop nest, and in which order the nests run.

First come maxima over whole tensors, then outputs without a recurrence, then those of a recurrence
and what follows it element by element, and last what reads those back from memory.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mmc.ir.op import Op, Value, producer
from mmc.ir.ops import logic
from mmc.ir.ops import pointwise as ir
from mmc.ir.ops.recurrence import LinearRecurrence
from mmc.ir.ops.reduce import CumSum, Max
from mmc.ir.types import Shape
from mmc.targets.tvm.memory import is_one
from mmc.targets.tvm.stages import cone, is_row_reduction

Recurrence = LinearRecurrence | CumSum


@dataclass(frozen=True)
class Nest:
    """outputs: their positions.  lead: the axes looped over.

    total: the value that the nest computes instead of outputs.  recurrences: in order of use.
    """

    lead: Shape
    outputs: tuple[int, ...] = ()
    total: Value | None = None
    recurrences: tuple[Op, ...] = ()


def schedule(outputs: Sequence[Value], inputs: Collection[Value]) -> list[Nest]:
    """The nests in the order in which they run."""
    stored = set(inputs)
    totals = [v for v in cone(outputs, stored) if is_whole_maximum(v)]
    nests = [Nest(row_maximum_behind(v).type.shape[:-1], total=v) for v in totals]
    stored |= set(totals)
    plain = [i for i, v in enumerate(outputs) if not recurrences_behind(v, stored)]
    nests += _by_lead(outputs, plain)
    stored |= {outputs[i] for i in plain}
    stepped = [
        i for i, v in enumerate(outputs) if i not in plain and steps_with_recurrence(v, stored)
    ]
    nests += _by_recurrence(outputs, stepped, stored)
    rest = [i for i in range(len(outputs)) if i not in plain and i not in stepped]
    return nests + _by_lead(outputs, rest)


def is_whole_maximum(value: Value) -> bool:
    """Whether the value is a maximum over every axis of a tensor of several rows."""
    op = producer(value)
    if not isinstance(op, Max) or is_row_reduction(op) or not all(map(is_one, op.type.shape)):
        return False
    while isinstance(op, Max) and op.keepdims and not is_row_reduction(op):
        op = producer(op.x)
    return isinstance(op, Max) and is_row_reduction(op) and isinstance(producer(op.x), ir.Abs)


def row_maximum_behind(total: Value) -> Value:
    """The maxima over rows that a maximum over a whole tensor is made of."""
    op = producer(total)
    while isinstance(op, Max) and isinstance(below := producer(op.x), Max):
        op = below
    return op.results[0]


def recurrences_behind(value: Value, stored: Collection[Value]) -> list[Op]:
    """The recurrences that the value needs and memory does not hold."""
    found = (producer(v) for v in cone([value], stored) if v not in stored)
    return [op for op in found if isinstance(op, Recurrence)]


def steps_with_recurrence(value: Value, stored: Collection[Value]) -> bool:
    """Whether the value follows recurrences of its own shape element by element."""
    shape = value.type.shape
    axes: set[int] = set()
    stack = [value]
    while stack:
        current = stack.pop()
        if current in stored or not recurrences_behind(current, stored):
            continue
        op = producer(current)
        if isinstance(op, Recurrence):
            axes.add(op.axis % op.type.rank)
            if op.type.shape != shape:
                return False
        elif not isinstance(op, ir.Unary | ir.Binary | logic.Where):
            return False
        stack += op.operands
    return len(axes) == 1


def _by_lead(outputs: Sequence[Value], chosen: Sequence[int]) -> list[Nest]:
    groups: dict[Shape, list[int]] = {}
    for i in chosen:
        groups.setdefault(outputs[i].type.shape[:-1], []).append(i)
    return [Nest(lead, tuple(group)) for lead, group in groups.items()]


def _by_recurrence(
    outputs: Sequence[Value], chosen: Sequence[int], stored: Collection[Value]
) -> list[Nest]:
    groups: dict[tuple[Shape, int], list[int]] = {}
    for i in chosen:
        op = recurrences_behind(outputs[i], stored)[0]
        axis = op.attributes["axis"] % outputs[i].type.rank
        groups.setdefault((outputs[i].type.shape, axis), []).append(i)
    nests: list[Nest] = []
    for (shape, _), group in groups.items():
        found = dict.fromkeys(op for i in group for op in recurrences_behind(outputs[i], stored))
        nests.append(Nest(shape, tuple(group), recurrences=_in_order(found, stored)))
    return nests


def _in_order(recurrences: Collection[Op], stored: Collection[Value]) -> tuple[Op, ...]:
    """Those that need fewer others first."""

    def depth(op: Op) -> int:
        return len(recurrences_behind(op.results[0], stored))

    return tuple(sorted(recurrences, key=depth))
