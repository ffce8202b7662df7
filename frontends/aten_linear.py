"""Aten's contractions, normalisations, attention and convolution, and MMC's own operators."""

# Table entries are lambdas, called with whatever torch's schema says.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
from __future__ import annotations

import math
from typing import Any

from mmc.frontends.aten_call import Call, Translate
from mmc.frontends.aten_image import convolution
from mmc.frontends.operands import (
    Operand,
    Unsupported,
    cast,
    cut,
    operand,
    permuted,
    product,
    reshape,
)
from mmc.ir.op import Value
from mmc.ir.ops import logic
from mmc.ir.ops import pointwise as p
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.norm import LayerNorm, RmsNorm
from mmc.ir.ops.recurrence import CausalConv, ConvWindow
from mmc.ir.ops.reduce import Softmax
from mmc.ir.ops.shape import Expand, Pad, TakePosition
from mmc.ir.ops.source import Iota
from mmc.ir.types import DType

SMALLEST = {DType.F32: 2.0**-23, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}
"""The distance from 1 to the next number: torch's eps where none is given."""


def _linear(call: Call, x: Value, w: Value, bias: Value | None = None) -> Value:
    return Linear(x, w, bias)


def _matmul(call: Call, x: Value, y: Value) -> Value:
    """Torch's matmul also takes vectors: they are rows on the left and columns on the right."""
    x = reshape(x, (1, *x.type.shape)) if x.type.rank == 1 else x
    y = reshape(y, (*y.type.shape, 1)) if y.type.rank == 1 else y
    return reshape(product(x, y), call.shape)


def _addmm(
    call: Call, bias: Value, x: Value, y: Value, beta: Operand = 1, alpha: Operand = 1
) -> Value:
    """Returns beta * bias + alpha * (x @ y)."""
    made = product(x, y)
    if beta == alpha == 1 and isinstance(made, Linear) and bias.type.shape == made.type.shape[-1:]:
        return Linear(made.x, made.w, bias)
    made = made if alpha == 1 else p.Mul(made, call.operand(alpha))
    return p.Add(bias if beta == 1 else p.Mul(bias, call.operand(beta)), made)


def _last_axis_only(normalized_shape: Any) -> None:
    if len(normalized_shape) != 1:
        raise Unsupported("normalisation over more than the last axis")


def _optional(call: Call, x: Value | None) -> Value | None:
    return None if x is None else cast(x, call.dtype)


def _rms_norm(
    call: Call, x: Value, shape: Any, gain: Value | None = None, eps: float | None = None
) -> Value:
    _last_axis_only(shape)
    return RmsNorm(x, _optional(call, gain), SMALLEST[call.dtype] if eps is None else eps)


def _layer_norm(
    call: Call,
    x: Value,
    shape: Any,
    gain: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    _last_axis_only(shape)
    return LayerNorm(x, _optional(call, gain), _optional(call, bias), eps)


def _native_layer_norm(call: Call, *args: Any) -> tuple[Value | None, ...]:
    return _layer_norm(call, *args), None, None


def _attention(
    call: Call,
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
) -> Value:
    """softmax(q k^T * scale + mask) v; q, k, v [..., heads, positions, width]."""
    if dropout:
        raise Unsupported("attention with dropout")
    if grouped:
        k, v = (_repeat_heads(x, q.type.shape[-3]) for x in (k, v))
    width = q.type.shape[-1]
    scale = 1 / math.sqrt(int(str(width))) if scale is None else scale
    swapped = [*range(k.type.rank - 2), k.type.rank - 1, k.type.rank - 2]
    scores = p.Mul(Matmul(q, permuted(k, swapped)), operand(scale, call.dtype))
    if causal:
        rows, columns = q.type.shape[-2], k.type.shape[-2]
        mask = logic.LessEqual(Iota(columns), reshape(Iota(rows), (rows, 1)))
    if mask is not None and mask.type.dtype is DType.BOOL:
        scores = logic.Where(mask, scores, operand(-math.inf, call.dtype))
    elif mask is not None:
        scores = p.Add(scores, cast(mask, call.dtype))
    return Matmul(Softmax(scores, -1), v)


def _repeat_heads(x: Value, heads: Any) -> Value:
    """Each group's keys or values for each of its query heads."""
    *front, groups, positions, width = x.type.shape
    each = int(str(heads)) // int(str(groups))
    apart = reshape(x, (*front, groups, 1, positions, width))
    return reshape(
        Expand(apart, (*front, groups, each, positions, width)),
        (*front, heads, positions, width),
    )


def _conv1d(
    call: Call,
    x: Value,
    w: Value,
    bias: Value | None = None,
    stride: Any = (1,),
    padding: Any = (0,),
    dilation: Any = (1,),
    groups: int = 1,
) -> Value:
    """x [B, D, T]; depthwise with w [D, 1, width] is the causal one."""
    channels, one, width = w.type.shape
    depthwise = one == 1 and groups == channels == x.type.shape[1]
    plain = tuple(stride) == tuple(dilation) == (1,) and isinstance(padding, list | tuple)
    if not (depthwise and plain and isinstance(width, int)):
        return convolution(call, x, w, bias, stride, padding, dilation, groups)
    past = permuted(x, (0, 2, 1))
    past = Pad(past, 1, padding[0], padding[0]) if padding[0] else past
    rest = past.type.shape[1] - (width - 1)
    state, now = cut(past, 1, 0, width - 1), cut(past, 1, width - 1, rest)
    y = CausalConv(now, state, reshape(w, (channels, width)), bias)
    return permuted(y, (0, 2, 1))


TABLE: dict[str, Translate] = {
    "aten.linear": _linear,
    "aten.matmul": _matmul,
    "aten.mm": _matmul,
    "aten.bmm": _matmul,
    "aten.mv": _matmul,
    "aten.dot": _matmul,
    "aten.addmm": _addmm,
    "aten.baddbmm": _addmm,
    "aten.rms_norm": _rms_norm,
    "aten.layer_norm": _layer_norm,
    "aten.native_layer_norm": _native_layer_norm,
    "aten.scaled_dot_product_attention": _attention,
    "aten.conv1d": _conv1d,
    "mmc.take_position": lambda call, x, index: TakePosition(x, index),
    "mmc.causal_conv": lambda call, x, state, w, bias: CausalConv(x, state, w, bias),
    "mmc.conv_window": lambda call, x, state, lengths: ConvWindow(x, state, lengths),
}
