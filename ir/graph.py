"""A graph: named inputs, named outputs, and everything between them.

A state (recurrent state, cache) is an input and an output of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmc.ir.intern import intern
from mmc.ir.op import Op, Value, VerifyError, origin, producer
from mmc.ir.ops.source import Input, Weight
from mmc.ir.types import TensorType

Step = Callable[[Op, Op], Value | tuple[Value, ...]]
Mapped = Mapping[Value, Value]


class _Interned(type):
    """Make equal graphs the same object, so that nested graphs compare by identity."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        graph: Graph = super().__call__(*args, **kwargs)
        return intern((graph.name, graph.inputs, graph.outputs), graph)


@dataclass(frozen=True, eq=False)
class Graph(metaclass=_Interned):
    """`inputs` in the caller's order, used or not; `outputs` as (name, value) pairs."""

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[tuple[str, Value], ...]

    def __repr__(self) -> str:
        return f"<graph @{self.name}>"

    @property
    def values(self) -> tuple[Value, ...]:
        """The output values without their names."""
        return tuple(value for _, value in self.outputs)

    @property
    def states(self) -> tuple[str, ...]:
        """The names that are an input and an output."""
        given = {op.name for op in self.inputs}
        return tuple(name for name, _ in self.outputs if name in given)

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """Every operation, inputs first, definitions before uses."""
        done: dict[Op, None] = dict.fromkeys(self.inputs)
        stack = [producer(value) for value in reversed(self.values)]
        while stack:
            pending = [p for v in reversed(stack[-1].operands) if (p := producer(v)) not in done]
            if pending:
                stack += pending
            else:
                done[stack.pop()] = None
        return tuple(done)

    @cached_property
    def users(self) -> Mapping[Op, tuple[Op, ...]]:
        """The operations that read each operation, once per operand."""
        users: dict[Op, list[Op]] = {op: [] for op in self.ops}
        for op in self.ops:
            for operand in op.operands:
                users[producer(operand)].append(op)
        return {op: tuple(by) for op, by in users.items()}

    @property
    def weights(self) -> tuple[Weight, ...]:
        return tuple(op for op in self.ops if isinstance(op, Weight))

    def __iter__(self) -> Iterator[Op]:
        return iter(self.ops)

    def __len__(self) -> int:
        return len(self.ops)

    def verify(self) -> Graph:
        """Check every operation, nested graphs too; raise `VerifyError` on the first that fails."""
        for op in self.ops:
            for nested in nested_graphs(op):
                nested.verify()
            _ = op.types
        names = [op.name for op in self.inputs]
        stray = {op.name for op in self.ops if isinstance(op, Input)} - set(names)
        if stray:
            raise VerifyError(f"@{self.name} reads {sorted(stray)}, which are not among its inputs")
        for what, given in (("inputs", names), ("outputs", [name for name, _ in self.outputs])):
            if len(set(given)) != len(given):
                raise VerifyError(f"@{self.name} has two {what} of one name: {given}")
        return self

    def map(self, step: Step) -> tuple[Graph, Mapped]:
        """Rebuild from the inputs down through `step(old, old over its new operands)`.

        `step` returns what takes its place: an operation, a value, or a tuple of one value a
        result.
        Also returns what became of every value.
        """
        new: dict[Value, Value] = {}
        for op in self.ops:
            moved = op.rebuild(lambda v: new.get(v, v))  # noqa: B023 (called at once)
            made = step(op, moved)
            made = (
                made.results
                if isinstance(made, Op)
                else made
                if isinstance(made, tuple)
                else (made,)
            )
            for value in made:
                _ = producer(value).types  # definitions first: no deep recursion later
            new |= zip(op.results, made, strict=True)
        inputs = tuple(op for i in self.inputs if isinstance(op := new[i], Input))
        return Graph(self.name, inputs, tuple((n, new[v]) for n, v in self.outputs)), new

    def bind(self, symbols: Mapping[str, int]) -> Graph:
        """The same graph with numbers for some of its symbols."""

        def step(_: Op, moved: Op) -> Op:
            return bind_op(moved, symbols)

        return self.map(step)[0]

    def renamed(self, name: str) -> Graph:
        return Graph(name, self.inputs, self.outputs)


def nested_graphs(op: Op) -> tuple[Graph, ...]:
    """The graphs that an operation carries as attributes, such as a scan's body."""
    return tuple(a for a in op.attributes.values() if isinstance(a, Graph))


def bind_op(op: Op, symbols: Mapping[str, int]) -> Op:
    """The operation, and the graphs that it carries, with numbers for symbols."""
    bound = op.bind(symbols)
    for nested in nested_graphs(bound):
        bound = _with_nested(bound, nested, nested.bind(symbols))
    return bound


def _with_nested(op: Op, old: Graph, new: Graph) -> Op:
    with origin(op.origin):
        return type(op)(*(new if field is old else field for field in op.fields))


def graph_of(name: str, outputs: Mapping[str, Value], inputs: Sequence[Input] = ()) -> Graph:
    """A verified graph; inputs that are not listed follow in the order in which they are met."""
    graph = Graph(name, tuple(inputs), tuple(outputs.items()))
    found = [op for op in graph.ops if isinstance(op, Input) and op not in graph.inputs]
    return Graph(name, (*inputs, *found), graph.outputs).verify()


def value_types(graph: Graph) -> dict[str, TensorType]:
    """The type of each output by name."""
    return {name: value.type for name, value in graph.outputs}
