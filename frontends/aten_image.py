"""Aten's convolutions, poolings and batch norms, in operations that are there already.

A convolution is a linear layer that reads patches: each offset of the kernel is a slice of the
image, and the slices side by side are the rows that one matrix multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product as offsets
from typing import Any

from mmc.frontends.aten_call import Call, Translate
from mmc.frontends.operands import Unsupported, cast, cut, operand, over, permuted, reshape
from mmc.ir.op import Value
from mmc.ir.ops import pointwise as p
from mmc.ir.ops import reduce as r
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.shape import Concat, Pad
from mmc.ir.types import Dim, DType

Sides = Sequence[int]


def _each(given: Any, axes: int, otherwise: int = 1) -> Sides:
    """One number for all spatial axes, or one each."""
    numbers = [given] if isinstance(given, int) else list(given or [otherwise])
    return numbers * axes if len(numbers) == 1 else numbers


def _windows(
    x: Value, kernel: Sides, stride: Sides, dilation: Sides, out: Sequence[Dim]
) -> Iterator[Value]:
    """For each offset of the kernel what it reads: x [B, C, ...] at out positions an axis."""
    for at in offsets(*map(range, kernel)):
        part = x
        for axis, offset in enumerate(at):
            start = offset * dilation[axis]
            part = cut(part, 2 + axis, start, out[axis], stride[axis])
        yield part


def _padded(x: Value, padding: Sides, value: float = 0.0) -> Value:
    for axis, width in enumerate(padding):
        x = Pad(x, 2 + axis, width, width, value) if width else x
    return x


def convolution(
    call: Call,
    x: Value,
    w: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """x [B, C, ...], w [N, C / groups, ...] -> [B, N, ...]: one linear layer a group."""
    axes = x.type.rank - 2
    if isinstance(padding, str) or x.type.rank != w.type.rank:
        raise Unsupported(f"a convolution with padding {padding!r} of {x.type}")
    count, width, *kernel = (int(str(d)) for d in w.type.shape)
    x = _padded(x, _each(padding, axes, 0))
    parts = list(_windows(x, kernel, _each(stride, axes), _each(dilation, axes), call.shape[2:]))
    if width == 1 and groups == count:
        y = _depthwise(parts, w)
        return y if bias is None else p.Add(y, reshape(bias, (count, *(1,) * axes)))
    y = _patches(parts, w, groups)
    y = y if bias is None else p.Add(y, bias)
    return permuted(y, (0, axes + 1, *range(1, axes + 1)))


def _depthwise(parts: Sequence[Value], w: Value) -> Value:
    """Each channel for itself: [B, N, ...]."""
    count, rank = w.type.shape[0], w.type.rank
    taps = reshape(w, (count, len(parts)))
    columns = [reshape(cut(taps, 1, i, 1), (count, *(1,) * (rank - 2))) for i in range(len(parts))]
    return reduce(p.Add, map(p.Mul, parts, columns))


def _patches(parts: Sequence[Value], w: Value, groups: int) -> Value:
    """The slices as rows, times the matrix of each group: [B, ..., N]."""
    count, width, *_ = (int(str(d)) for d in w.type.shape)
    order = (0, *range(2, w.type.rank), 1)
    rows = [permuted(part, order) for part in parts]
    taps = reshape(permuted(w, order), (count, width * len(parts)))
    each, made = count // groups, list[Value]()
    for group in range(groups):
        own = [cut(row, row.type.rank - 1, group * width, width) for row in rows]
        patches = Concat(tuple(own), -1) if len(own) > 1 else own[0]
        made.append(Linear(patches, cut(taps, 0, group * each, each)))
    return Concat(tuple(made), -1) if groups > 1 else made[0]


def _batch_norm(
    call: Call,
    x: Value,
    gain: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    """(x - mean) / sqrt(variance + eps) * gain + bias, one of each for a channel."""
    if training or mean is None or variance is None:
        raise Unsupported("a batch norm in training mode: call .eval() first")
    column = (x.type.shape[1], *(1,) * (x.type.rank - 2))
    step = p.Rsqrt(p.Add(variance, operand(eps, variance.type.dtype)))
    step = step if gain is None else p.Mul(step, gain)
    y = p.Mul(p.Sub(x, reshape(mean, column)), reshape(step, column))
    return cast(y if bias is None else p.Add(y, reshape(bias, column)), call.dtype)


def _batch_norm_first(call: Call, *args: Any) -> tuple[Value | None, ...]:
    x, gain, bias, mean, variance, momentum, eps = args
    return _batch_norm(call, x, gain, bias, mean, variance, False, momentum, eps), None, None


def _max_pool(
    call: Call,
    x: Value,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil: bool = False,
) -> Value:
    axes = x.type.rank - 2
    sides = _each(kernel, axes)
    if ceil:
        raise Unsupported("a pooling that rounds its size up")
    lowest = float("-inf") if call.dtype.is_float else 0
    x = _padded(x, _each(padding, axes, 0), lowest)
    steps = _each(stride or sides, axes)
    return reduce(p.Maximum, _windows(x, sides, steps, _each(dilation, axes), call.shape[2:]))


def _avg_pool(
    call: Call,
    x: Value,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Value:
    axes = x.type.rank - 2
    sides, widths = _each(kernel, axes), _each(padding, axes, 0)
    if ceil or (any(widths) and not count_padding):
        raise Unsupported("a pooling that rounds its size up or leaves its padding out")
    steps = _each(stride or sides, axes)
    parts = list(_windows(_padded(x, widths), sides, steps, [1] * axes, call.shape[2:]))
    return p.Div(reduce(p.Add, parts), operand(divisor or len(parts), DType.F32))


def _adaptive_avg_pool(call: Call, x: Value, size: Any) -> Value:
    if any(d != 1 for d in size):
        raise Unsupported(f"an adaptive pooling to {list(size)}: only to one position")
    return over(r.Mean, x, list(range(2, x.type.rank)), True)


TABLE: dict[str, Translate] = {
    "aten.conv2d": convolution,
    "aten.batch_norm": _batch_norm,
    "aten._native_batch_norm_legit_no_training": _batch_norm_first,
    "aten.max_pool2d": _max_pool,
    "aten.avg_pool2d": _avg_pool,
    "aten.adaptive_avg_pool2d": _adaptive_avg_pool,
}
