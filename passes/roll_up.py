"""Roll unrolled recurrences up again.

torch.export writes a Python loop over time as T steps in a row, h[t] = a[t] * h[t-1] + b[t].  Where
no a[t] and b[t] reads the memory, and time is seen behind them (element t of a tensor with T of
them), the steps become one `linear_recurrence`, and step t an element of it.  What comes before and
behind the steps in the same form for each is computed for all of them at once (`over_time`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin, producer
from mmc.ir.ops.pointwise import Add, Mul
from mmc.ir.ops.recurrence import LinearRecurrence, Scan
from mmc.ir.ops.shape import Concat, Reshape, Slice
from mmc.ir.ops.source import Constant, Input
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType
from mmc.passes.base import Log, Pass
from mmc.passes.over_time import NotLifted, OverTime


@dataclass(frozen=True)
class _Link:
    """h = a * before + b, with the operands of the sum and of the product in either order."""

    h: Add
    before: Value
    a: Value
    b: Value


@dataclass(frozen=True)
class RollUp(Pass):
    """least: how many steps in a row are enough."""

    name: ClassVar[str] = "roll-up"
    least: int = 2

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        mapped: Mapped = {value: value for op in graph for value in op.results}
        seen: set[Value] = set()
        while (chain := self._next(graph, seen)) is not None:
            seen |= {link.h for link in chain}
            try:
                rolled = _rolled(chain)
            except NotLifted as reason:
                log.skip(chain[0].h, f"unrolled: {reason}")
                continue
            log.fire(chain[0].h, "unrolled", f"{len(chain)} steps in a row of h' = a*h + b")
            graph, moved = _replaced(graph, chain, rolled)
            seen = {moved[value] for value in seen if value in moved}
            mapped = {old: moved[new] for old, new in mapped.items() if new in moved}
        return graph, mapped

    def _next(self, graph: Graph, seen: set[Value]) -> list[_Link] | None:
        """The last chain of steps that was not looked at, if time is seen behind it."""
        for op in reversed(graph.ops):
            if op in seen or not isinstance(op, Add) or op.type.dtype is not DType.F32:
                continue
            chains = (_chain(op, side, place) for side in (0, 1) for place in (0, 1))
            chain = max(chains, key=len)
            if len(chain) >= self.least and _time_axis(chain) is not None:
                return chain
        return None


def _chain(op: Op, side: int, place: int) -> list[_Link]:
    """The steps that end in `op`; the product and the memory have one place in all of them."""
    links: list[_Link] = []
    while isinstance(op, Add) and isinstance(product := producer(op.operands[side]), Mul):
        before = product.operands[place]
        if before.type != op.type:
            break
        links.append(_Link(op, before, product.operands[1 - place], op.operands[1 - side]))
        op = producer(before)
    return links[::-1]


def _time_axis(chain: Sequence[_Link]) -> int | None:
    """Along which axis the first step reads the first of as many elements as there are steps."""
    first = chain[0]
    behind = Graph("behind", (), (("b", first.b), ("a", first.a)))
    for op in reversed(behind.ops):
        found = _element(op)
        if found is not None and found[2] == 0 and found[0].type.shape[found[1]] == len(chain):
            return found[1] if found[1] <= first.h.type.rank else None
    return None


def _element(op: Op) -> tuple[Value, int, object] | None:
    """The tensor, the axis, and which element along it the operation reads."""
    if not isinstance(op, Reshape) or not isinstance(cut := producer(op.x), Slice):
        return None
    axis, shape = cut.axis % cut.type.rank, cut.type.shape
    if cut.length != 1 or op.shape != (*shape[:axis], *shape[axis + 1 :]):
        return None
    return cut.x, axis, cut.start


def _rolled(chain: Sequence[_Link]) -> LinearRecurrence:
    """The recurrence; raises NotLifted where there is none."""
    inside: set[Op] = {link.h for link in chain}
    for n, link in enumerate(chain):
        if not inside.isdisjoint(Graph("read", (), (("a", link.a), ("b", link.b))).ops):
            raise NotLifted(f"what step {n} multiplies or adds reads the memory, too")
    axis, step = _time_axis(chain), chain[0].h.type.shape
    assert axis is not None
    with origin(chain[0].h.origin):
        body = _Template(axis, len(chain))
        values = [body.value([link.a for link in chain]), body.value([link.b for link in chain])]
        over = body.over_time()
        a, b = (over.expanded(value, step) for value in values)
        return LinearRecurrence(a, b, chain[0].before, axis)


@dataclass
class _Template:
    """The body of a scan that does what each of the steps does."""

    axis: int
    steps: int
    xs: dict[Input, Value] = field(default_factory=dict[Input, Value])
    captured: dict[Input, Value] = field(default_factory=dict[Input, Value])
    _made: dict[tuple[Value, ...], Value] = field(default_factory=dict[tuple[Value, ...], Value])

    def value(self, column: Sequence[Value]) -> Value:
        """What stands for a value of every step."""
        key = tuple(column)
        if key not in self._made:
            self._made[key] = self._value(key)
        return self._made[key]

    def over_time(self) -> OverTime:
        if not self.xs:
            raise NotLifted("no tensor is read step by step")
        inputs = (*self.xs, *self.captured)
        body = Graph("step", inputs, ())
        return OverTime(Scan((), (*self.xs.values(),), (*self.captured.values(),), body, self.axis))

    def _value(self, column: tuple[Value, ...]) -> Value:
        first, ops = column[0], [producer(value) for value in column]
        if all(value is first for value in column):
            return (
                first if isinstance(first, Constant) else self._given(self.captured, first, first)
            )
        found = [_element(op) for op in ops]
        if found[0] is not None:
            x = found[0][0]
            in_order = all(each == (x, self.axis, t) for t, each in enumerate(found))
            if in_order and x.type.shape[self.axis] == self.steps:
                return self._given(self.xs, first, x)
        elif first is ops[0] and ops[0].operands and all(_alike(op, ops[0]) for op in ops):
            operands = [
                self.value(group) for group in zip(*(op.operands for op in ops), strict=True)
            ]
            inner = dict(zip(ops[0].operands, operands, strict=True))
            if list(map(inner.__getitem__, ops[0].operands)) == operands:
                return ops[0].rebuild(inner.__getitem__)
        return self._stacked(column)

    def _stacked(self, column: tuple[Value, ...]) -> Value:
        """Values that have no form in common lie one behind the other."""
        shape = column[0].type.shape
        if len(shape) < self.axis or any(value.type != column[0].type for value in column):
            raise NotLifted("its steps are not alike")
        added = (*shape[: self.axis], 1, *shape[self.axis :])
        parts = tuple(Reshape(value, added) for value in column)
        return self._given(self.xs, column[0], Concat(parts, self.axis))

    def _given(self, where: dict[Input, Value], one: Value, outside: Value) -> Value:
        inside = Input(f"in{len(self.xs) + len(self.captured)}", one.type)
        where[inside] = outside
        return inside


def _alike(op: Op, other: Op) -> bool:
    same = type(op) is type(other) and op.types == other.types
    return same and op.attributes == other.attributes and len(op.operands) == len(other.operands)


def _replaced(
    graph: Graph, chain: Sequence[_Link], rolled: LinearRecurrence
) -> tuple[Graph, Mapped]:
    """The graph with elements of the recurrence in the place of its steps."""
    steps: dict[Op, int] = {link.h: t for t, link in enumerate(chain)}

    def step(old: Op, moved: Op) -> Value:
        if old in steps:
            return Reshape(Slice(rolled, rolled.axis, steps[old], 1), old.type.shape)
        if isinstance(moved, Concat) and len(moved.parts) == len(chain):
            return _unstacked(moved, rolled.axis)
        return moved

    return graph.map(step)


def _unstacked(op: Concat, axis: int) -> Value:
    """What a stack of steps is, where they are alike: computed for all of them at once."""
    columns = [part.x for part in op.parts if isinstance(part, Reshape)]
    shape = columns[0].type.shape if columns else ()
    added = (*shape[:axis], 1, *shape[axis:])
    is_stack = len(columns) == len(op.parts) and op.axis % op.type.rank == axis
    if not is_stack or any(part.type.shape != added for part in op.parts):
        return op
    body = _Template(axis, len(columns))
    try:
        value = body.value(columns)
        whole = body.over_time().expanded(value, shape)
    except NotLifted:
        return op
    return op if any(isinstance(producer(x), Concat) for x in body.xs.values()) else whole


PASS = RollUp
