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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.attention import Rotary
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.recurrence import CausalConv, ConvWindow
from mmc.ir.ops.reduce import ArgMax, Max, Mean, Reduction, Sum
from mmc.ir.ops.shape import (
    Concat,
    Expand,
    Gather,
    Pad,
    Permute,
    Reshape,
    Slice,
    TakePosition,
)  # fmt: skip
from mmc.ir.ops.source import Constant, Iota
from mmc.ir.types import Shape, TensorType
from mmc.targets.tvm import elementary, pointwise
from mmc.targets.tvm.elementary import Vector, hold, like, number, spread
from mmc.targets.tvm.fold import LANES, Fold, for_columns, lane_total, rounded, serial
from mmc.targets.tvm.memory import (
    COMPUTED,
    Place,
    Symbols,
    as_expression,
    is_one,
    ravel,
    size_of,
    unravel,
    widen,
)  # fmt: skip


@dataclass(frozen=True)
class Index:
    """`axes` has an entry per axis of the value; `lanes` elements along the last are meant.

    in_row: it belongs to the row that is being computed, so that what was kept of it may be used.
    """

    axes: tuple[Any, ...]
    lanes: int = 1
    in_row: bool = False


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


# Moving elements.


def _constant(e: Elements, op: Constant, index: Index) -> Vector:
    return number(op.value, COMPUTED[op.declared.dtype], index.lanes)


def _iota(e: Elements, op: Iota, index: Index) -> Vector:
    first = as_expression(index.axes[0] + op.start)
    return first if index.lanes == 1 else T.ramp(first, T.int64(1), index.lanes)


def _slice(e: Elements, op: Slice, index: Index) -> Vector:
    axis = op.axis % op.type.rank
    axes = list(index.axes)
    axes[axis] = axes[axis] * op.step + size_of(op.start, e.symbols)
    stays = index.in_row and axis == op.type.rank - 1
    return e.at(op.x, Index(tuple(axes), index.lanes, stays))


def _permute(e: Elements, op: Permute, index: Index) -> Vector:
    axes: list[Any] = [None] * len(op.order)
    for axis, source in zip(index.axes, op.order, strict=True):
        axes[source] = axis
    return e.at(op.x, Index(tuple(axes), index.lanes))


def _expand(e: Elements, op: Expand, index: Index) -> Vector:
    return e.operand(op.x, index)


def _reshape(e: Elements, op: Reshape, index: Index) -> Vector:
    shape, old = op.type.shape, op.x.type.shape
    position = ravel(index.axes, e.sizes(shape))
    if not old:
        return spread(e.at(op.x, Index(())), index.lanes)
    axes = unravel(position, e.sizes(old))
    lanes = 1 if is_one(old[-1]) else index.lanes
    return spread(e.at(op.x, Index(axes, lanes)), index.lanes // lanes)


def _within(position: Any, size: Any) -> Any:
    """The nearest position that exists: what is read there is not used."""
    last = T.max(as_expression(size) - 1, T.int64(0))
    return T.Bind(T.max(T.min(as_expression(position), last), T.int64(0)))


def _concat(e: Elements, op: Concat, index: Index) -> Vector:
    axis = op.axis % op.type.rank
    position = index.axes[axis]
    stays = index.in_row and axis == op.type.rank - 1
    made: Vector = None
    starts = _starts([e.size(part, axis) for part in op.parts])
    for part, start in zip(op.parts, starts, strict=True):
        where = _within(position - start, e.size(part, axis))
        axes = (*index.axes[:axis], where, *index.axes[axis + 1 :])
        found = e.at(part, Index(axes, index.lanes, stays))
        made = found if made is None else T.Select(as_expression(position) >= start, found, made)
    return hold(made)


def _starts(sizes: list[Any]) -> list[Any]:
    starts: list[Any] = [0]
    for size in sizes[:-1]:
        starts.append(starts[-1] + size)
    return starts


def _pad(e: Elements, op: Pad, index: Index) -> Vector:
    axis = op.axis % op.type.rank
    size = e.size(op.x, axis)
    position = T.Bind(as_expression(index.axes[axis] - op.before))
    axes = (*index.axes[:axis], _within(position, size), *index.axes[axis + 1 :])
    stays = index.in_row and axis == op.type.rank - 1
    found = e.at(op.x, Index(axes, index.lanes, stays))
    inside = T.And(position >= 0, position < size)
    return hold(T.Select(inside, found, elementary.like(found, op.value)))


def _gather(e: Elements, op: Gather, index: Index) -> Vector:
    rank = op.indices.type.rank
    row = T.Bind(T.cast(e.at(op.indices, Index(index.axes[:rank])), "int64"))
    return e.at(op.table, Index((row, *index.axes[rank:]), index.lanes))


def _take_position(e: Elements, op: TakePosition, index: Index) -> Vector:
    batch = index.axes[0]
    position = e.at(op.index, Index((batch,)))
    return e.at(op.x, Index((batch, position, *index.axes[2:]), index.lanes))


def _rotary(e: Elements, op: Rotary, index: Index) -> Vector:
    """The first of a pair loses what the second gains; lanes stay within a half."""
    *row, column = index.axes
    half = e.size(op.cos, 2)
    first = as_expression(column) < half
    angle = T.Bind(T.Select(first, as_expression(column), as_expression(column) - half))
    other = T.Bind(T.Select(first, as_expression(column) + half, as_expression(column) - half))
    x = e.at(op.x, index)
    partner = e.at(op.x, replace(index, axes=(*row, other)))
    cos, sin = (e.at(v, Index((*row[:2], angle), index.lanes)) for v in (op.cos, op.sin))
    turned = hold(partner * sin)
    return hold(x * cos + T.Select(first, turned * like(turned, -1), turned))


# The recent past of a sequence: `state`, then `x`.


def _past(e: Elements, op: CausalConv | ConvWindow, index: Index) -> Vector:
    batch, position, column = index.axes
    before, steps = e.size(op.state, 1), e.size(op.x, 1)
    x = e.at(op.x, Index((batch, _within(position - before, steps), column), index.lanes))
    if before == 0:
        return x
    state = e.at(op.state, Index((batch, _within(position, before), column), index.lanes))
    return hold(T.Select(as_expression(position) < before, state, x))


def _causal_conv(e: Elements, op: CausalConv, index: Index) -> Vector:
    batch, step, column = index.axes
    width = e.size(op.w, 1)
    total: Vector = None
    for tap in range(width):
        past = _past(e, op, replace(index, axes=(batch, step + tap, column)))
        weight = _column_of(e, op.w, column, tap, index.lanes)
        total = weight * past if total is None else total + weight * past
    if op.bias is not None:
        total = total + e.at(op.bias, Index((column,), index.lanes))
    return rounded(total, op.type.dtype)


def _column_of(e: Elements, matrix: Value, row: Any, column: int, lanes: int) -> Vector:
    """`lanes` rows of one column."""
    if lanes == 1:
        return e.at(matrix, Index((row, column)))
    place = e.places[matrix]
    offsets = T.ramp(place.offset((row, column)), place.stride, lanes)
    return T.Bind(widen(place.buffer[offsets], matrix.type.dtype))


def _conv_window(e: Elements, op: ConvWindow, index: Index) -> Vector:
    batch, step, column = index.axes
    position = T.Bind(e.at(op.lengths, Index((batch,))) + step)
    return _past(e, op, replace(index, axes=(batch, position, column)))


# Loops on the spot.


def _reduction(e: Elements, op: Reduction, index: Index) -> Vector:
    """A reduction over an axis that is not the last; lanes stay lanes."""
    rank = op.x.type.rank
    axis = op.axis % rank
    after = index.axes[axis + 1 :] if op.keepdims else index.axes[axis:]
    size = e.size(op.x, axis)
    fold = Fold(op, index.lanes)
    with serial(size) as step, e.scope():
        axes = (*index.axes[:axis], step, *after)
        fold.add(e.at(op.x, Index(axes, index.lanes)), step)
    return fold.result(size)


def _linear(e: Elements, op: Linear, index: Index) -> Vector:
    """One dot product, `lanes` columns at a time."""
    *lead, n = index.axes
    columns = op.w.type.shape[1]
    fold = Fold(Sum(op.x), e.lanes)
    rest = Fold(Sum(op.x), 1)

    def add(total: Fold, k: Any) -> None:
        with e.scope():
            x = e.at(op.x, Index((*lead, k), total.lanes, index.in_row))
            total.add(x * e.at(op.w, Index((n, k), total.lanes)), k)

    if e.lanes == 1:
        with serial(size_of(columns, e.symbols)) as k:
            add(rest, k)
        dot = rest.result(1)
    else:
        for_columns(size_of(columns, e.symbols), lambda k: add(fold, k), lambda k: add(rest, k))
        dot = lane_total(fold.result(1), lambda a, b: a + b) + rest.result(1)
    if op.bias is not None:
        dot = dot + e.at(op.bias, Index((n,)))
    return rounded(dot, op.type.dtype)


def _matmul(e: Elements, op: Matmul, index: Index) -> Vector:
    """16 columns of y at a time, times one number of x."""
    *lead, m, n = index.axes
    fold = Fold(Sum(op.x), index.lanes)

    def matrix(value: Value, row: Any, column: Any, lanes: int) -> Vector:
        shape = value.type.shape[:-2]
        axes = lead[len(lead) - len(shape) :]
        axes = [0 if is_one(dim) else axis for dim, axis in zip(shape, axes, strict=True)]
        return e.at(value, Index((*axes, row, column), lanes))

    with serial(e.size(op.x, -1)) as k, e.scope():
        x = spread(matrix(op.x, m, k, 1), index.lanes)
        fold.add(x * matrix(op.y, k, n, index.lanes), k)
    return rounded(fold.result(1), op.type.dtype)


Evaluator: TypeAlias = Callable[[Elements, Any, Index], Vector]

EVALUATORS: dict[type[Op], Evaluator] = {
    Constant: _constant,
    Iota: _iota,
    Slice: _slice,
    Permute: _permute,
    Expand: _expand,
    Reshape: _reshape,
    Concat: _concat,
    Pad: _pad,
    Gather: _gather,
    TakePosition: _take_position,
    Rotary: _rotary,
    CausalConv: _causal_conv,
    ConvWindow: _conv_window,
    Sum: _reduction,
    Mean: _reduction,
    Max: _reduction,
    ArgMax: _reduction,
    Linear: _linear,
    Matmul: _matmul,
}
"""What is not pointwise; row reductions come from the row program."""


def scratch_type(value: Value) -> TensorType:
    """The type of one row of a value."""
    return TensorType(value.type.dtype, value.type.shape[-1:])
