"""ONNX's operators that move, cut and join elements, and those that make them."""

# Table entries are lambdas.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import numpy as np

from mmc.frontends.onnx_call import Call, Known, Operand, Translate, axis_of, dtype_of, scalar_like
from mmc.frontends.onnx_reduce import flipped
from mmc.frontends.onnx_sizes import divide
from mmc.frontends.operands import (
    Unsupported,
    cut,
    index_select,
    number,
    operand,
    permuted,
    replaced,
    reshape,
)
from mmc.ir.op import Value
from mmc.ir.ops import logic
from mmc.ir.ops import pointwise as p
from mmc.ir.ops import shape as s
from mmc.ir.ops.source import Constant, Weight
from mmc.ir.types import Dim, DType, Shape, SymbolicDim, TensorType, broadcast, numel, static_shape

_FEW = 64
_TO_THE_END = 2**31 - 1
"""An end of a slice from here on means the end of the axis, as exporters write it."""


def _reshape(call: Call) -> Value:
    """0 keeps a dimension, -1 takes what is left."""
    x = call.value(0)
    keeps = not call.attribute("allowzero", 0)
    dims = [
        x.type.shape[i] if dim == 0 and keeps and i < x.type.rank else dim
        for i, dim in enumerate(call.dims(1))
    ]
    if -1 in dims:
        others = numel(tuple(dim for dim in dims if dim != -1))
        left = divide(numel(x.type.shape), others)
        if left is None:
            raise Unsupported(f"{x.type} does not divide into {list(map(str, dims))}")
        dims[dims.index(-1)] = left
    return reshape(x, tuple(dims))


def _unsqueeze(call: Call) -> Value:
    x, axes = call.value(0), call.axes(1) or []
    rank = x.type.rank + len(axes)
    new, old = {a % rank for a in axes}, iter(x.type.shape)
    return reshape(x, tuple(1 if i in new else next(old) for i in range(rank)))


def _squeeze(call: Call) -> Value:
    x, axes = call.value(0), call.axes(1)
    shape = x.type.shape
    gone = {i for i, d in enumerate(shape) if d == 1} if axes is None else {
        axis_of(x, a) for a in axes
    }  # fmt: skip
    if odd := [str(shape[i]) for i in gone if shape[i] != 1]:
        raise Unsupported(f"an axis of size {odd[0]} cannot go away")
    return reshape(x, tuple(d for i, d in enumerate(shape) if i not in gone))


def _flatten(call: Call) -> Value:
    x, axis = call.value(), call.attribute("axis", 1)
    axis = axis + x.type.rank if axis < 0 else axis
    return reshape(x, (numel(x.type.shape[:axis]), numel(x.type.shape[axis:])))


def _transpose(call: Call) -> Value:
    x = call.value()
    return permuted(x, call.attribute("perm") or range(x.type.rank)[::-1])


def _expand(call: Call) -> Value:
    x = call.value(0)
    shape = broadcast(x.type.shape, tuple(call.dims(1)))
    return x if shape == x.type.shape else s.Expand(x, shape)


def _position(at: Dim, size: Dim, what: str) -> Dim:
    """An index counted from the front and kept inside the axis, as ONNX does."""
    if isinstance(at, int) and isinstance(size, int):
        return min(max(at + size if at < 0 else at, 0), size)
    if isinstance(at, SymbolicDim):
        return at
    if at >= _TO_THE_END:
        return size
    if at > 1:
        raise Unsupported(f"{what} {at} of an axis of size {size}: fix that size")
    return size + at if at < 0 else at


def _slice(call: Call) -> Value:
    x = call.value(0)
    starts, ends = _either(call, 1, "starts"), _either(call, 2, "ends")
    axes = call.axes(3) or range(len(starts))
    steps = call.ints(4) if call.has(4) else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x = _cut(x, axis_of(x, axis), start, end, step)
    return x


def _either(call: Call, index: int, name: str) -> list[Dim]:
    """An input, or in older opsets an attribute."""
    return call.dims(index) if call.has(index) else [*call.attribute(name)]


def _cut(x: Value, axis: int, start: Dim, end: Dim, step: int) -> Value:
    size = x.type.shape[axis]
    if step == 0:
        raise Unsupported("a step of zero")
    if step < 0:
        # Element n of x is element -1 - n of x turned round, which counts from the other end.
        x, step, start, end = flipped(x, axis), -step, -1 - start, -1 - end
    first, last = _position(start, size, "start"), _position(end, size, "end")
    length = last - first
    if isinstance(length, int):
        length = max(0, -(-length // step))
    elif step != 1:
        raise Unsupported(f"every {step}th element of a symbolic number of them")
    return cut(x, axis, first if length != 0 else 0, length, step)


def _gather(call: Call) -> Value:
    x = call.value(0)
    axis = axis_of(x, call.attribute("axis", 0))
    size, at = x.type.shape[axis], call.number(1)
    if isinstance(at, int) and (isinstance(size, int) or at in (0, -1)):
        inner = replaced(x.type.shape, axis, *call.numbers(1).shape)
        return reshape(cut(x, axis, at if at >= 0 else size + at, 1), inner)
    return index_select(x, axis, _from_the_front(call, x, size))


def _from_the_front(call: Call, x: Value, size: Dim) -> Value:
    """Indices may count from the end; those of an embedding, which are token ids, never do."""
    found, indices = call.operand(1), call.value(1)
    if indices.type.dtype not in (DType.I32, DType.I64):
        raise Unsupported(f"indices of type {indices.type.dtype}")
    known = isinstance(found, Known) and all(n >= 0 for n in found.numbers.flat)
    if known or (isinstance(x, Weight) and not isinstance(found, Known)):
        return indices
    negative = logic.Less(indices, scalar_like(0, indices))
    return logic.Where(negative, p.Add(indices, operand(size, indices.type.dtype)), indices)


def _concat(call: Call) -> Value:
    parts = [part for part in call.values if 0 not in part.type.shape] or call.values[:1]
    axis = axis_of(parts[0], call.attribute("axis"))
    return s.Concat(tuple(parts), axis) if len(parts) > 1 else parts[0]


def _split(call: Call) -> list[Operand | None]:
    x = call.value(0)
    axis = axis_of(x, call.attribute("axis", 0))
    count, size = len(call.node.outputs), x.type.shape[axis]
    if call.has(1) or call.attribute("split"):
        lengths = _either(call, 1, "split")
    elif isinstance(size, int):
        each = -(-size // count)
        lengths = [min(each, max(0, size - i * each)) for i in range(count)]
    else:
        even = divide(size, count)
        if even is None:
            raise Unsupported(f"{count} equal parts of {size}")
        lengths = [even] * count
    parts: list[Operand | None] = []
    start: Dim = 0
    for length in lengths:
        parts.append(cut(x, axis, start, length))
        start = start + length
    if start != size:
        raise Unsupported(f"parts of {list(map(str, lengths))} of an axis of size {size}")
    return parts


def _pad(call: Call) -> Value:
    x = call.value(0)
    pads = [int(str(n)) for n in _either(call, 1, "pads")]
    axes = call.ints(3) if call.has(3) else list(range(x.type.rank))
    value = call.number(2) if call.has(2) else call.attribute("value", 0)
    mode = call.attribute("mode", "constant")
    if mode != "constant" or value is None:
        raise Unsupported(f"padding of mode {mode!r} or by a value that is not known")
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        axis = axis_of(x, axis)
        if before < 0 or after < 0:
            inside = x.type.shape[axis] + (min(before, 0) + min(after, 0))
            x = cut(x, axis, max(-before, 0), inside)
        if before > 0 or after > 0:
            x = s.Pad(x, axis, max(before, 0), max(after, 0), number(value, x.type.dtype))
    return x


def _tile(call: Call) -> Value:
    x, counts = call.value(0), call.dims(1)
    apart = tuple(d for dim in x.type.shape for d in (1, dim))
    wide = tuple(d for n, dim in zip(counts, x.type.shape, strict=True) for d in (n, dim))
    shape = tuple(n * dim for n, dim in zip(counts, x.type.shape, strict=True))
    return reshape(s.Expand(reshape(x, apart), wide), shape)


def _filled(call: Call) -> Operand:
    """ConstantOfShape: one number, repeated; a few integers may be a shape."""
    tensor = call.attribute("value")
    dtype = DType.F32 if tensor is None else dtype_of(tensor.dtype)
    value = 0.0 if tensor is None else tensor.numpy().reshape(-1)[0].item()
    declared = TensorType(dtype, tuple(call.dims(0)))
    count = numel(declared.shape)
    if not dtype.is_float and isinstance(count, int) and count <= _FEW:
        return Known.of(np.full(static_shape(declared.shape), value), dtype)
    return Constant(number(value, dtype), declared)


def _gather_nd(call: Call) -> Value:
    """One position of each sequence: indices [B, 1] with one batch axis."""
    x, indices = call.value(0), call.value(1)
    if call.attribute("batch_dims", 0) != 1 or indices.type.shape != (x.type.shape[0], 1):
        raise Unsupported("other than one element of each row: indices [B, 1], batch_dims=1")
    taken = s.TakePosition(x, reshape(p.Cast(indices, DType.I64), x.type.shape[:1]))
    shape: Shape = replaced(taken.type.shape, 1)
    return reshape(taken, shape)


TABLE: dict[str, Translate] = {
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Identity": lambda call: call.operand(0),
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
