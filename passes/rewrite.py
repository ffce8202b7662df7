"""Rewrite rules: the pattern is the IR itself, with holes.

@rule
def norm_then_quantize(x, gain, eps, by):
    "Why this is right."
    return Quantize(Once(RmsNorm(x, gain, eps)), by) >> RmsNormQuantize(x, gain, eps, by)
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Result, Value, origin, producer
from mmc.ir.types import TensorType

Bindings = Mapping[str, Any]
Readers = Mapping[Op, int]
Guard = Callable[[Bindings], bool]


@dataclass(frozen=True)
class Hole(Value):
    """In a pattern: any operand or attribute, the same one wherever the hole occurs."""

    name: str


@dataclass(frozen=True, eq=False)
class Once(Value):
    """In a pattern: this operation, and only where nothing else reads it."""

    op: Op


@dataclass(frozen=True)
class Rule:
    """`before` turns into `after` wherever it matches, `guard` agrees and the type stays.

    A template does not say how its operands broadcast: a match that narrows the result is none.
    """

    name: str
    why: str
    before: Value
    after: Value
    guard: Guard

    @property
    def roots(self) -> tuple[type[Op], ...]:
        return (type(producer(self.before)),)

    def apply(self, value: Value, readers: Readers) -> Value | None:
        for found in _match(self.before, value, {}, readers):
            if self.guard(found):
                new = _fill(self.after, found)
                if _types(new) == _types(value):
                    return new
        return None


@dataclass(frozen=True)
class CodeRule:
    """A rule without a fixed shape: from an operation to what takes its place, or None."""

    name: str
    why: str
    roots: tuple[type[Op], ...]
    function: Callable[[Any], Value | None]

    def apply(self, value: Value, readers: Readers) -> Value | None:
        return self.function(value)


def _types(value: Value) -> tuple[TensorType, ...]:
    return value.types if isinstance(value, Op) else (value.type,)


def rule_for(*roots: type[Op]) -> Callable[[Callable[[Any], Value | None]], CodeRule]:
    """A rule for operations of the given classes."""
    return lambda function: CodeRule(
        function.__name__, inspect.getdoc(function) or "", roots, function
    )


def rule(template: Callable[..., tuple[Value, Value]], guard: Guard = lambda _: True) -> Rule:
    """Call the function once with a hole for each parameter; it returns `before >> after`."""
    before, after = template(*map(Hole, inspect.signature(template).parameters))
    return Rule(template.__name__, inspect.getdoc(template) or "", before, after, guard)


def rule_if(guard: Guard) -> Callable[[Callable[..., tuple[Value, Value]]], Rule]:
    """A rule that also asks `guard` about what its holes stand for."""
    return lambda template: rule(template, guard)


def _match(
    pattern: object, node: object, found: dict[str, Any], readers: Readers
) -> Iterator[dict[str, Any]]:
    """Every way to lay the pattern over the node."""
    match pattern:
        case Hole(name):
            if name not in found:
                yield {**found, name: node}
            elif found[name] == node:
                yield found
        case Once(op):
            if isinstance(node, Op) and readers.get(node, 0) <= 1:
                yield from _match(op, node, found, readers)
        case Result(op, index):
            if isinstance(node, Result) and node.index == index:
                yield from _match(op, node.op, found, readers)
        case Op():
            if type(node) is type(pattern):
                for order in _orders(pattern.fields, pattern.commutative):
                    yield from _match_all(order, node.fields, found, readers)
        case tuple():
            nodes = cast(tuple[object, ...], node)
            if isinstance(node, tuple) and len(nodes) == len(pattern):  # pyright: ignore[reportUnknownArgumentType]
                yield from _match_all(cast(tuple[object, ...], pattern), nodes, found, readers)
        case _ if is_dataclass(pattern) and not isinstance(pattern, type):
            if type(node) is type(pattern):
                yield from _match_all(_record(pattern), _record(node), found, readers)
        case _:
            if type(pattern) is type(node) and pattern == node:
                yield found


def _orders(given: tuple[Any, ...], commutative: bool) -> Iterator[tuple[Any, ...]]:
    yield given
    if commutative and given[0] is not given[1]:
        yield (given[1], given[0], *given[2:])


def _match_all(
    patterns: Sequence[object], nodes: Sequence[object], found: dict[str, Any], readers: Readers
) -> Iterator[dict[str, Any]]:
    if not patterns:
        yield found
        return
    for first in _match(patterns[0], nodes[0], found, readers):
        yield from _match_all(patterns[1:], nodes[1:], first, readers)


def _record(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, f.name) for f in fields(value))


def _fill(template: Any, found: Bindings) -> Any:
    """The template with every hole filled."""
    match template:
        case Hole(name):
            return found[name]
        case Result(op, index):
            return _fill(op, found).results[index]
        case Op():
            return type(template)(*(_fill(f, found) for f in template.fields))
        case tuple():
            return tuple(_fill(f, found) for f in cast(tuple[Any, ...], template))
        case _ if is_dataclass(template) and not isinstance(template, type):
            names = (f.name for f in fields(template))
            return replace(template, **{n: _fill(getattr(template, n), found) for n in names})
        case _:
            return template


AnyRule = Rule | CodeRule
Fired = Callable[[AnyRule, Op], None]


def rewrite(graph: Graph, rules: Sequence[AnyRule], fired: Fired) -> tuple[Graph, Mapped]:
    """Apply the rules at every operation, from the inputs to the outputs, until none fires.

    Also returns what became of every value; `fired` hears of each firing and what it replaced.
    """
    by_root: dict[type, list[AnyRule]] = {}
    for candidate in rules:
        for root in candidate.roots:
            by_root.setdefault(root, []).append(candidate)
    readers: Counter[Op] = Counter()

    def settle(op: Op) -> Value:
        for candidate in by_root.get(type(op), ()):
            new = candidate.apply(op, readers)
            if new is not None and new is not op:
                fired(candidate, op)
                return settle(new) if isinstance(new, Op) else new
        return op

    def step(old: Op, moved: Op) -> Value:
        with origin(old.origin):
            new = settle(moved)
        # It will have the readers that the old one had.
        readers[producer(new)] += len(graph.users[old]) + sum(
            producer(v) is old for v in graph.values
        )
        return new

    return graph.map(step)
