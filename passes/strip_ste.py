"""Strip straight-through estimators, which training leaves in the graph.

`x + detach(q - x)` has the value q and the gradient of x.  In floating point it is only nearly q
(in bf16 a ternary weight comes out up to 0.8 % off), so it goes before anything looks at values.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.pointwise import Add, Detach, Mul, Round, Sub
from mmc.ir.ops.source import Constant
from mmc.ir.types import TensorType
from mmc.passes.rewrite import Bindings, rule, rule_if


@rule
def straight_through(q: Value, x: Value) -> tuple[Value, Value]:
    """x + detach(q - x) is q: the estimator changes gradients alone."""
    return Add(x, Detach(Sub(q, x))) >> q


@rule
def straight_through_by_one(q: Value, x: Value, one: TensorType) -> tuple[Value, Value]:
    """A straight-through estimator whose strength is one is the plain one."""
    return Add(x, Mul(Detach(Sub(q, x)), Constant(1.0, one))) >> q


def _rounds(found: Bindings) -> bool:
    """True where q is x rounded: between the two lies a `round`."""
    x, seen, stack = found["x"], set[Op](), [found["q"]]
    while stack:
        value = stack.pop()
        op = producer(value)
        if value is x or op in seen:
            continue
        if isinstance(op, Round):
            return True
        seen.add(op)
        stack += () if isinstance(op, Linear | Matmul) else op.operands
    return False


@rule_if(_rounds)
def straight_through_unmarked(q: Value, x: Value) -> tuple[Value, Value]:
    """An exporter may drop the mark: x + (q - x), with q a rounding of x, is meant to be q."""
    return Add(x, Sub(q, x)) >> q


RULES = (straight_through, straight_through_by_one, straight_through_unmarked)


def leftovers(graph: Graph) -> Iterator[tuple[Op, str]]:
    for op in graph:
        if isinstance(op, Detach) and isinstance(op.x, Sub):
            yield op, "detach of a difference that is not added back with strength one: kept"
