"""Aten's operations that move, cut and join elements."""

# Table entries are lambdas, called with whatever torch's schema says.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmc.frontends.aten_call import Call, Results, Translate
from mmc.frontends.operands import (
    Unsupported,
    axis_of,
    cast,
    cut,
    index_select,
    moved,
    operand,
    permuted,
    replaced,
    reshape,
)
from mmc.ir.op import Value
from mmc.ir.ops import pointwise as p
from mmc.ir.ops import shape as s
from mmc.ir.ops.source import Iota
from mmc.ir.types import Dim, DType, Shape, numel

I64 = DType.I64


def _to_result_shape(call: Call, x: Value, *_: Any) -> Value:
    """Torch has worked out the shape: view, unsqueeze, flatten and their like are one thing."""
    return reshape(x, call.shape)


def _expand(call: Call, x: Value, *_: Any) -> Value:
    return x if x.type.shape == call.shape else s.Expand(x, call.shape)


def _permute(call: Call, x: Value, order: Sequence[int]) -> Value:
    return permuted(x, order)


def _transpose(call: Call, x: Value, first: int = -2, second: int = -1) -> Value:
    order = list(range(x.type.rank))
    if order:
        a, b = axis_of(x, first), axis_of(x, second)
        order[a], order[b] = order[b], order[a]
    return permuted(x, order)


def _t(call: Call, x: Value) -> Value:
    return permuted(x, range(x.type.rank)[::-1])


def _movedim(call: Call, x: Value, source: int, target: int) -> Value:
    return moved(x, source, target)


def _start(size: Dim, start: Dim | None) -> Dim:
    """Where a Python slice starts, counted from the front."""
    if start is None:
        return 0
    if isinstance(start, int) and start < 0:
        start = size + start
    if isinstance(start, int) and isinstance(size, int):
        return min(max(start, 0), size)
    return start


def _slice(
    call: Call, x: Value, axis: int = 0, start: Dim | None = None, end: Any = None, step: int = 1
) -> Value:
    axis = axis_of(x, axis)
    return cut(x, axis, _start(x.type.shape[axis], start), call.shape[axis], step)


def _narrow(call: Call, x: Value, axis: int, start: Dim, length: Dim) -> Value:
    return _slice(call, x, axis, start)


def _select(call: Call, x: Value, axis: int, index: Dim) -> Value:
    axis = axis_of(x, axis)
    one = cut(x, axis, _start(x.type.shape[axis], index), 1)
    return reshape(one, call.shape)


def _split(call: Call, x: Value, sizes: Any, axis: int = 0) -> Results:
    """split, chunk and split_with_sizes: torch has worked out the sizes."""
    axis, start = axis_of(x, axis), 0
    parts: list[Value] = []
    for part in call.types:
        parts.append(cut(x, axis, start, part.shape[axis]))
        start = start + part.shape[axis]
    return tuple(parts)


def _unbind(call: Call, x: Value, axis: int = 0) -> Results:
    axis = axis_of(x, axis)
    return tuple(reshape(cut(x, axis, i, 1), t.shape) for i, t in enumerate(call.types))


def _concat(call: Call, parts: Sequence[Value], axis: int = 0) -> Value:
    # Torch lets an empty vector stand among tensors of any rank.
    kept = [cast(part, call.dtype) for part in parts if part.type.shape != (0,)]
    return s.Concat(tuple(kept), axis_of(kept[0], axis)) if len(kept) > 1 else kept[0]


def _stack(call: Call, parts: Sequence[Value], axis: int = 0) -> Value:
    axis = axis % len(call.shape)
    shape = replaced(call.shape, axis, 1)
    return s.Concat(tuple(reshape(cast(part, call.dtype), shape) for part in parts), axis)


def _pad(
    call: Call, x: Value, widths: Sequence[Dim], mode: str | float = "constant", value: Any = None
) -> Value:
    if isinstance(mode, int | float):  # constant_pad_nd has no mode
        mode, value = "constant", mode
    plain = [width for width in widths if isinstance(width, int)]
    if mode != "constant" or len(plain) < len(widths):
        raise Unsupported(f"padding of mode {mode!r} by {list(map(str, widths))}")
    for i, (before, after) in enumerate(zip(plain[::2], plain[1::2], strict=True)):
        x = _padded(x, x.type.rank - 1 - i, before, after, value or 0)
    return x


def _padded(x: Value, axis: int, before: int, after: int, value: float) -> Value:
    """A negative width cuts off."""
    lost = min(before, 0) + min(after, 0)
    x = cut(x, axis, max(-before, 0), x.type.shape[axis] + lost)
    before, after = max(before, 0), max(after, 0)
    return s.Pad(x, axis, before, after, value) if before or after else x


def _repeat(call: Call, x: Value, counts: Sequence[Dim]) -> Value:
    shape: Shape = (1,) * (len(counts) - x.type.rank) + x.type.shape
    apart = tuple(d for dim in shape for d in (1, dim))
    wide = tuple(d for n, dim in zip(counts, shape, strict=True) for d in (n, dim))
    return reshape(s.Expand(reshape(x, apart), wide), call.shape)


def _repeat_interleave(call: Call, x: Value, count: int, axis: int, *_: Any) -> Value:
    axis = axis_of(x, axis)
    apart = reshape(x, (*x.type.shape[: axis + 1], 1, *x.type.shape[axis + 1 :]))
    wide = (*x.type.shape[: axis + 1], count, *x.type.shape[axis + 1 :])
    return reshape(s.Expand(apart, wide), call.shape)


def _roll(call: Call, x: Value, shifts: Sequence[int], axes: Sequence[int]) -> Value:
    for shift, axis in zip(shifts, axes, strict=True):
        size = x.type.shape[axis_of(x, axis)]
        if not isinstance(size, int):
            raise Unsupported("roll along a symbolic axis")
        at, axis = size - shift % size, axis_of(x, axis)
        x = s.Concat((cut(x, axis, at, size - at), cut(x, axis, 0, at)), axis)
    return x


def _embedding(call: Call, table: Value, indices: Value, *_: Any) -> Value:
    return s.Gather(table, indices)


def _index(call: Call, x: Value, indices: Sequence[Value | None]) -> Value:
    given = [(axis, i) for axis, i in enumerate(indices) if i is not None]
    if any(i.type.dtype is DType.BOOL for _, i in given):
        raise Unsupported("indexing by a mask: the size of the result depends on values")
    (first, index), *rest = given
    if [axis for axis, _ in given] != list(range(first, first + len(given))):
        raise Unsupported("indexing by tensors whose axes are apart")
    for axis, other in rest:  # several axes are one whose index counts them all
        size = x.type.shape[axis]
        index = p.Add(p.Mul(cast(index, I64), operand(size, I64)), cast(other, I64))
    sizes, last = x.type.shape, first + len(given)
    flat = (*sizes[:first], numel(sizes[first:last]), *sizes[last:])
    return index_select(reshape(x, flat), first, index)


def _gather(call: Call, x: Value, axis: int, index: Value, *_: Any) -> Value:
    """y[i, j] = x[index[i, j], j] where axis is 0: one index for each element."""
    axis, at = axis_of(x, axis), operand(0, I64)
    for i, size in enumerate(x.type.shape):
        column = (*(1,) * i, call.shape[i], *(1,) * (x.type.rank - 1 - i))
        own = cast(index, I64) if i == axis else reshape(Iota(call.shape[i]), column)
        at = p.Add(p.Mul(at, operand(size, I64)), own)
    return s.Gather(reshape(x, (numel(x.type.shape),)), at)


def _copied(like: Value, source: Value) -> Value:
    source = cast(source, like.type.dtype)
    same = source.type.shape == like.type.shape
    return source if same else s.Expand(source, like.type.shape)


def _copy(call: Call, x: Value, source: Value, *_: Any) -> Value:
    return _copied(x, source)


def _put(x: Value, source: Value, axis: int, start: Dim) -> Value:
    """Put `source` in place of the elements of one axis from `start` on."""
    size, length = x.type.shape[axis], source.type.shape[axis]
    after = start + length
    parts = [cut(x, axis, 0, start), source, cut(x, axis, after, size - after)]
    parts = [part for part in parts if part.type.shape[axis] != 0]
    return s.Concat(tuple(parts), axis) if len(parts) > 1 else parts[0]


def _slice_scatter(
    call: Call,
    x: Value,
    source: Value,
    axis: int = 0,
    start: Dim | None = None,
    end: Any = None,
    step: int = 1,
) -> Value:
    if step != 1:
        raise Unsupported("assignment to a slice with a step")
    axis = axis_of(x, axis)
    return _put(x, cast(source, call.dtype), axis, _start(x.type.shape[axis], start))


def _select_scatter(call: Call, x: Value, source: Value, axis: int, index: Dim) -> Value:
    axis = axis_of(x, axis)
    shape = replaced(x.type.shape, axis, 1)
    return _put(
        x, reshape(cast(source, call.dtype), shape), axis, _start(x.type.shape[axis], index)
    )


RESHAPES = (
    "view reshape _unsafe_view flatten unflatten unsqueeze squeeze view_as "
    "reshape_as atleast_1d atleast_2d"
)
EXPANDS = "expand expand_as broadcast_to"

TABLE: dict[str, Translate] = {
    **{f"aten.{name}": _to_result_shape for name in RESHAPES.split()},
    **{f"aten.{name}": _expand for name in EXPANDS.split()},
    "aten.permute": _permute,
    "aten.transpose": _transpose,
    "aten.swapaxes": _transpose,
    "aten.mT": _transpose,
    "aten.t": _t,
    "aten.numpy_T": _t,
    "aten.movedim.int": _movedim,
    "aten.slice": _slice,
    "aten.narrow": _narrow,
    "aten.select": _select,
    "aten.split": _split,
    "aten.split_with_sizes": _split,
    "aten.chunk": _split,
    "aten.tensor_split": _split,
    "aten.unbind": _unbind,
    "aten.cat": _concat,
    "aten.concat": _concat,
    "aten.stack": _stack,
    "aten.pad": _pad,
    "aten.constant_pad_nd": _pad,
    "aten.repeat": _repeat,
    "aten.repeat_interleave.self_int": _repeat_interleave,
    "aten.roll": _roll,
    "aten.embedding": _embedding,
    "aten.gather": _gather,
    "aten.index.Tensor": _index,
    "aten.index_select": lambda call, x, axis, indices: index_select(x, axis, indices),
    "aten.copy": _copy,
    "aten.slice_scatter": _slice_scatter,
    "aten.select_scatter": _select_scatter,
}
