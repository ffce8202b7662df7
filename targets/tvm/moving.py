# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The elements of operations that take their elements from somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Op, Value
from mmc.ir.ops.attention import Rotary
from mmc.ir.ops.int4 import GROUP, DequantizeInt4
from mmc.ir.ops.recurrence import CausalConv, ConvWindow
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
from mmc.targets.tvm import elementary
from mmc.targets.tvm.elementary import Vector, convert, hold, like, number, spread
from mmc.targets.tvm.fold import rounded
from mmc.targets.tvm.indices import Index
from mmc.targets.tvm.memory import (
    COMPUTED,
    as_expression,
    is_one,
    ravel,
    size_of,
    unravel,
    widen,
)  # fmt: skip

if TYPE_CHECKING:
    from mmc.targets.tvm.expressions import Elements


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


def _dequantize_int4(e: Elements, op: DequantizeInt4, index: Index) -> Vector:
    """Lanes are 16 columns from a multiple of 16 on: half a group, whose bytes are neighbours."""
    *row, column = index.axes
    half = GROUP // 2
    group = T.Bind(T.truncdiv(as_expression(column), GROUP))
    within = T.Bind(as_expression(column) - group * GROUP)
    byte = T.Bind(group * half + T.truncmod(within, half))
    codes = convert(e.at(op.codes, Index((*row, byte), index.lanes)), "int32")
    shift = T.Bind(T.cast(T.truncdiv(within, half) * 4, "int32"))
    code = T.shift_right(codes, spread(shift, index.lanes)) & like(codes, 15)
    step = spread(e.at(op.steps, Index((*row, group))), index.lanes)
    return hold(convert(code - like(codes, 8), "float32") * step)


MOVING: Mapping[type[Op], Callable[[Any, Any, Index], Vector]] = {
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
    DequantizeInt4: _dequantize_int4,
}
