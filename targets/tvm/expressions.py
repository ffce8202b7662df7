# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The elements of a value at an index, as TIR expressions.

An index names one element, or 16 neighbours along the last axis.  Elements are computed where they
are asked for, from the elements of the operands, down to what lies in memory; within one scope
nothing is computed twice.  A reduction over another axis than the last, a convolution and a dense
product are loops on the spot.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmc.ir.op import Op, Value, producer
from mmc.ir.types import Shape, TensorType
from mmc.targets.tvm import pointwise
from mmc.targets.tvm.elementary import Vector, hold, spread
from mmc.targets.tvm.fold import LANES, rounded
from mmc.targets.tvm.indices import Index
from mmc.targets.tvm.loops import LOOPS
from mmc.targets.tvm.memory import Place, Symbols, is_one, size_of
from mmc.targets.tvm.moving import MOVING

EVALUATORS = {**MOVING, **LOOPS}
"""What is not pointwise; row reductions come from the row program."""


@dataclass
class Kept:
    """A value of this row that is in memory once stage `stage` is over."""

    place: Place
    stage: int


@dataclass
class Elements:
    """Evaluates values; what it has computed is remembered per scope."""

    symbols: Symbols
    places: dict[Value, Any]
    """What lies in memory: a `Place`, or what loads and stores like one."""
    kept: dict[Value, Kept] = field(default_factory=dict)
    reduced: dict[Op, Vector] = field(default_factory=dict)
    stage: int = 0
    lanes: int = LANES
    """Columns that a loop on the spot may take together; 1 where threads share the columns."""
    _scopes: list[dict[Any, Any]] = field(default_factory=lambda: [{}])

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """What is computed inside is forgotten afterwards: it stands in a loop or a branch."""
        self._scopes.append({})
        try:
            yield
        finally:
            self._scopes.pop()

    def size(self, value: Value, axis: int) -> Any:
        return size_of(value.type.shape[axis], self.symbols)

    def sizes(self, shape: Shape) -> list[Any]:
        return [size_of(dim, self.symbols) for dim in shape]

    def operand(self, value: Value, index: Index) -> Vector:
        """The elements that numpy broadcasting pairs with `index`."""
        shape = value.type.shape
        axes = index.axes[len(index.axes) - len(shape) :]
        axes = tuple(0 if is_one(dim) else axis for dim, axis in zip(shape, axes, strict=True))
        lanes = 1 if not shape or is_one(shape[-1]) else index.lanes
        return spread(self.at(value, Index(axes, lanes, index.in_row)), index.lanes // lanes)

    def at(self, value: Value, index: Index) -> Vector:
        """The elements of the value at the index; evaluated at most once in a scope."""
        key = (value, index.lanes, tuple(map(_identity, index.axes)))
        for scope in self._scopes:
            if key in scope:
                return scope[key][0]
        made = hold(self._evaluate(value, index))
        self._scopes[-1][key] = (
            made,
            index,
        )  # the index lives on, so that its identity is not reused
        return made

    def remember(self, value: Value, index: Index, elements: Vector) -> None:
        """Let `at` find elements that were computed elsewhere, until the scope ends."""
        key = (value, index.lanes, tuple(map(_identity, index.axes)))
        self._scopes[-1][key] = elements, index

    def _evaluate(self, value: Value, index: Index) -> Vector:
        kept = self.kept.get(value)
        if value in self.places:
            return self.places[value].load(index.axes, index.lanes)
        if index.in_row and kept is not None and kept.stage < self.stage:
            return kept.place.load(
                index.axes[len(index.axes) - kept.place.type.rank :], index.lanes
            )
        op = producer(value)
        if index.in_row and op in self.reduced:
            return self.reduced[op]
        if pointwise.covers(op):
            operands = [self.operand(x, index) for x in op.operands]
            return rounded(pointwise.compute(op, operands), value.type.dtype)
        return EVALUATORS[type(op)](self, op, index)


def _identity(axis: Any) -> Any:
    return axis if isinstance(axis, int) else (id(axis),)


def scratch_type(value: Value) -> TensorType:
    """The type of one row of a value."""
    return TensorType(value.type.dtype, value.type.shape[-1:])
