"""What the row emitter can compile."""

from __future__ import annotations

from collections.abc import Iterable

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.recurrence import LinearRecurrence
from mmc.ir.ops.reduce import CumSum
from mmc.ir.ops.source import Input
from mmc.targets.tvm import pointwise
from mmc.targets.tvm.expressions import EVALUATORS
from mmc.targets.tvm.memory import STORED
from mmc.targets.tvm.primitives import primitive_outputs
from mmc.targets.tvm.schedule import recurrences_behind, schedule
from mmc.targets.tvm.stages import Plan, cone, is_row_reduction


def unsupported(body: Graph) -> list[Op]:
    """The operations of the body that no CPU kernel computes, or not where they stand."""
    outputs = primitive_outputs(body)
    made = [producer(v) for v in cone(outputs, body.inputs)]
    refused = [op for op in made if not _is_known(op)]
    return refused or list(dict.fromkeys(_misplaced(outputs, body.inputs)))


def _is_known(op: Op) -> bool:
    kind = type(op) in EVALUATORS or isinstance(op, Input | LinearRecurrence | CumSum)
    known = kind or pointwise.covers(op) or is_row_reduction(op)
    return known and all(type_.dtype in STORED for type_ in op.types)


def _misplaced(outputs: tuple[Value, ...], inputs: Iterable[Value]) -> list[Op]:
    """Operations that stand where their nest has no place for them."""
    stored = set(inputs)
    refused: list[Op] = []
    for nest in schedule(outputs, stored):
        values = [outputs[i] for i in nest.outputs]
        if nest.total is not None:
            plan = Plan(stored, [nest.total])
            stored.add(nest.total)
            continue
        if nest.recurrences:
            refused += [
                op for v in cone(values, stored) if v not in stored
                if is_row_reduction(op := producer(v)) or isinstance(op, Linear)
            ]  # fmt: skip
        else:
            plan = Plan(stored, values)
            refused += plan.astray()
            refused += [op for v in values for op in recurrences_behind(v, stored)]
        stored |= set(values)
    return refused
