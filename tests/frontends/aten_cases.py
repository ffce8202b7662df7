"""One expression for each entry of the table of PyTorch operations, and for its awkward forms."""

# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten
Arguments = Mapping[str, Tensor]


class Inputs:
    """What a case may read: B and T are dynamic, the rest is fixed."""

    def __init__(self, given: Arguments) -> None:
        self.x = given["x"]  # f32[B, T, 8]
        self.y = given["y"]  # f32[B, T, 8], away from zero
        self.row = given["row"]  # f32[8]
        self.m = given["m"]  # f32[8, 8]
        self.stack = given["stack"]  # f32[B, 8, 6]
        self.half = given["half"]  # bf16[B, T, 8]
        self.i = given["i"]  # i64[B, T], 0 to 7
        self.j = given["j"]  # i32[B, T]
        self.u = given["u"]  # u8[2, 8]
        self.b = given["b"]  # bool[B, T, 8]
        self.q = given["q"]  # f32[B, 4, 6, 8]
        self.k = given["k"]  # f32[B, 2, 6, 8]


def example(batch: int, time: int, seed: int = 0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    def whole(high: int, *shape: int) -> Tensor:
        return torch.from_numpy(rng.integers(0, high, shape))

    y = normal(batch, time, 8)
    return {
        "x": normal(batch, time, 8) * 2,
        "y": torch.sign(y) * (y.abs() + 0.5),
        "row": normal(8),
        "m": normal(8, 8),
        "stack": normal(batch, 8, 6),
        "half": normal(batch, time, 8).to(torch.bfloat16),
        "i": whole(8, batch, time),
        "j": whole(8, batch, time).to(torch.int32),
        "u": whole(255, 2, 8).to(torch.uint8),
        "b": whole(2, batch, time, 8).to(torch.bool),
        "q": normal(batch, 4, 6, 8),
        "k": normal(batch, 2, 6, 8),
    }


Case = Callable[[Inputs], Tensor]
FLOAT_UNARY = (
    "abs ceil cos erf exp floor neg reciprocal relu round sgn "
    "sigmoid sign silu sin square tanh trunc"
)
POSITIVE_UNARY = "log log1p rsqrt sqrt"


def _unary(name: str, positive: bool = False) -> Case:
    op = getattr(aten, name).default
    return lambda s: op(s.y.abs() if positive else s.y)


CASES: dict[str, Case] = {
    **{name: _unary(name) for name in FLOAT_UNARY.split()},
    **{name: _unary(name, positive=True) for name in POSITIVE_UNARY.split()},
    # arithmetic, and numbers among the operands
    "add": lambda s: s.x + s.row,
    "add_number": lambda s: 3 + s.x,
    "add_alpha": lambda s: torch.add(s.x, s.y, alpha=3),
    "add_ints_to_floats": lambda s: s.i.unsqueeze(-1) + s.x,
    "add_half_and_float": lambda s: s.half + s.x,
    "add_i32_and_i64": lambda s: s.i + s.j,
    "add_float_number_to_ints": lambda s: s.i + 0.5,
    "add_scalar_tensor": lambda s: s.x + torch.tensor(2.5, dtype=torch.float32),
    "add_size": lambda s: s.x + s.x.shape[1],
    "sub": lambda s: s.x - s.y,
    "sub_alpha": lambda s: torch.sub(s.x, 2, alpha=3),
    "rsub": lambda s: 1 - s.x,
    "mul_bool": lambda s: s.x * s.b,
    "div": lambda s: s.x / s.y,
    "div_ints": lambda s: s.i / (s.j + 1),
    "div_floor": lambda s: torch.div(s.x, s.y, rounding_mode="floor"),
    "div_floor_ints": lambda s: torch.div(s.i - 4, 3, rounding_mode="floor"),
    "div_trunc": lambda s: torch.div(s.x, s.y, rounding_mode="trunc"),
    "remainder": lambda s: (s.x - 3) % s.y,
    "remainder_ints": lambda s: (s.i - 4) % 3,
    "floor_divide": lambda s: s.i // 3,
    "number_over_tensor": lambda s: 127 / s.y,
    **{
        f"power{n}": (lambda s, power=power: s.y.abs() ** power)
        for n, power in enumerate((0.5, -0.5, 1, -1, 2, 3, 1.7))
    },
    "pow_tensor": lambda s: s.y.abs() ** s.x,
    "pow_number": lambda s: 2**s.x,
    "addcmul": lambda s: torch.addcmul(s.x, s.x, s.y, value=0.5),
    "addcdiv": lambda s: torch.addcdiv(s.x, s.x, s.y, value=0.5),
    "lerp": lambda s: torch.lerp(s.x, s.y, 0.25),
    "lerp_tensor": lambda s: torch.lerp(s.x, s.y, s.x.sigmoid()),
    "maximum": lambda s: torch.maximum(s.x, s.y),
    "minimum": lambda s: torch.minimum(s.x, s.y),
    "max_other": lambda s: torch.max(s.x, s.y),
    "min_other": lambda s: torch.min(s.x, s.y),
    "logaddexp": lambda s: torch.logaddexp(s.x, s.y),
    # bounds
    "clamp": lambda s: s.x.clamp(-1, 1),
    "clamp_low": lambda s: s.x.clamp(min=1e-5),
    "clamp_ints": lambda s: s.i.clamp(2, 5),
    "clamp_min": lambda s: torch.clamp_min(s.x, 0.5),
    "clamp_max": lambda s: torch.clamp_max(s.x, 0.5),
    "clamp_tensor": lambda s: torch.clamp(s.x, s.row, s.row + 1),
    "clamp_min_tensor": lambda s: aten.clamp_min.Tensor(s.x, s.y),
    "clamp_max_tensor": lambda s: aten.clamp_max.Tensor(s.x, s.y),
    "hardtanh": lambda s: F.hardtanh(s.x),
    # activations
    "gelu": lambda s: F.gelu(s.x),
    "gelu_tanh": lambda s: F.gelu(s.x, approximate="tanh"),
    "softplus": lambda s: F.softplus(s.x * 20),
    "log_sigmoid": lambda s: F.logsigmoid(s.x),
    "sigmoid_of_ints": lambda s: s.i.sigmoid(),
    "dropout": lambda s: F.dropout(s.x, 0.3, training=False),
    # comparisons and choices
    "eq": lambda s: s.i == 3,
    "eq_beyond_float": lambda s: (s.i + 2**24) == (s.j + 2**24),
    "ne": lambda s: s.i != s.j,
    "lt": lambda s: s.x < s.y,
    "le": lambda s: s.i <= 2.5,
    "gt": lambda s: s.x > 0,
    "ge": lambda s: s.x >= s.i.unsqueeze(-1),
    "logical_and": lambda s: torch.logical_and(s.b, s.x > 0),
    "logical_or": lambda s: torch.logical_or(s.b, s.i.unsqueeze(-1)),
    "logical_xor": lambda s: torch.logical_xor(s.b, s.x > 0),
    "logical_not": lambda s: torch.logical_not(s.i),
    "where": lambda s: torch.where(s.b, s.x, s.y),
    "where_number": lambda s: torch.where(s.b, s.x, 0.0),
    "masked_fill": lambda s: s.x.masked_fill(s.b, float("-inf")).exp(),
    # bits
    "bitwise_and": lambda s: torch.bitwise_and(s.i, s.j),
    "bitwise_or": lambda s: torch.bitwise_or(s.i, 8),
    "bitwise_not": lambda s: ~s.i,
    "bitwise_not_bool": lambda s: ~s.b,
    "bitwise_right_shift": lambda s: torch.bitwise_right_shift(s.i, 1),
    "and_operator": lambda s: aten.__and__.Scalar(s.u, 3),
    "or_operator": lambda s: aten.__or__.Scalar(s.u, 3),
    "rshift_operator": lambda s: s.u >> 2,
    # element types and marks
    "to": lambda s: s.x.to(torch.bfloat16),
    "to_int": lambda s: s.x.to(torch.int8),
    "to_copy": lambda s: aten._to_copy.default(s.i, dtype=torch.float32),
    "type_as": lambda s: s.i.type_as(s.x),
    "alias": lambda s: aten.alias.default(s.x) + 1,
    "clone": lambda s: s.x.clone() + 1,
    "contiguous": lambda s: s.x.transpose(0, 1).contiguous() + 1,
    "detach": lambda s: s.x + (s.x.round() - s.x).detach(),
    "detach_in_place": lambda s: (s.x * 2).detach_(),
    "constant_row": lambda s: s.x * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]),
    # reductions
    "sum": lambda s: s.x.sum(-1),
    "sum_axes": lambda s: s.x.sum((0, 2), keepdim=True),
    "sum_all": lambda s: s.x.sum(),
    "sum_bool": lambda s: s.b.sum(1),
    "mean": lambda s: s.x.mean(1, keepdim=True),
    "mean_all": lambda s: s.x.abs().mean(),
    "mean_all_axes": lambda s: s.x.mean((0, 1, 2), keepdim=True),
    "amax": lambda s: s.x.amax(-1, keepdim=True),
    "amin": lambda s: s.x.amin(0),
    "max_all": lambda s: s.x.max(),
    "min_all": lambda s: s.x.min(),
    "max_axis": lambda s: s.x.max(-1, keepdim=True).values,
    "max_index": lambda s: s.x.max(-1).indices,
    "min_axis": lambda s: s.x.min(1).values,
    "min_index": lambda s: s.x.min(1).indices,
    "median": lambda s: s.x.median(),
    "median_axis": lambda s: s.x.median(-1).values,
    "argmax": lambda s: s.x.argmax(-1),
    "argmax_all": lambda s: s.x.argmax(),
    "softmax": lambda s: s.x.softmax(-1),
    "softmax_core": lambda s: aten._softmax.default(s.x, 1, False),
    "log_softmax": lambda s: s.x.log_softmax(-1),
    "log_softmax_core": lambda s: aten._log_softmax.default(s.x, -1, False),
    "cumsum": lambda s: s.x.cumsum(1),
    "cumsum_ints": lambda s: s.j.cumsum(-1),
    "norm": lambda s: torch.linalg.vector_norm(s.x, dim=-1, keepdim=True),
    "norm_1": lambda s: torch.linalg.vector_norm(s.x, 1),
    "norm_inf": lambda s: torch.linalg.vector_norm(s.x, float("inf"), dim=-1),
    "var": lambda s: s.x.var(-1, correction=0),
    "std": lambda s: torch.std(s.x, -1, correction=1),
    # shapes
    "view": lambda s: s.x.view(s.x.shape[0], -1),
    "reshape_merge": lambda s: s.x.reshape(-1, 8) + 1,
    "unsafe_view": lambda s: aten._unsafe_view.default(s.x, (-1, 8)),
    "flatten": lambda s: s.x.flatten(0, 1) + 1,
    "unflatten": lambda s: s.x.unflatten(-1, (2, 4)) + 1,
    "unsqueeze": lambda s: s.x.unsqueeze(-2) + 1,
    "squeeze": lambda s: s.x.sum(-1, keepdim=True).squeeze(-1),
    "view_as": lambda s: s.x.view_as(s.y) + 1,
    "reshape_as": lambda s: s.x.reshape_as(s.y) + 1,
    "atleast": lambda s: torch.atleast_2d(s.row) + 1,
    "atleast_1d": lambda s: torch.atleast_1d(s.x.sum()) + 1,
    "expand": lambda s: s.row.expand(s.x.shape[0], -1) + 1,
    "expand_as": lambda s: s.row.expand_as(s.x) + 1,
    "broadcast_to": lambda s: torch.broadcast_to(s.row, s.x.shape) + 1,
    "permute": lambda s: s.x.permute(2, -3, 1) + 1,
    "transpose": lambda s: s.x.transpose(-1, 0) + 1,
    "swapaxes": lambda s: torch.swapaxes(s.x, 0, 1) + 1,
    "mT": lambda s: s.x.mT + 1,
    "t": lambda s: s.m.t() + 1,
    "numpy_T": lambda s: s.m.T + 1,
    "movedim": lambda s: s.x.movedim(-1, 0) + 1,
    "transpose_twice": lambda s: s.x.transpose(0, 1).transpose(0, 1) + 1,
    "slice": lambda s: s.x[:, :, 2:5] + 1,
    "slice_symbolic": lambda s: s.x[:, 1:] + 1,
    "slice_negative": lambda s: s.x[..., -3:] + 1,
    "slice_last": lambda s: s.x[:, -1:] + 1,
    "slice_step": lambda s: s.x[..., 1::3] + 1,
    "slice_past_the_end": lambda s: s.x[..., 5:100] + 1,
    "narrow": lambda s: s.x.narrow(-1, 2, 3) + 1,
    "select": lambda s: s.x[:, 0] + 1,
    "select_negative": lambda s: s.x.select(-1, -2) + 1,
    "split": lambda s: s.x.split(3, -1)[2] + 1,
    "split_sizes": lambda s: s.x.split([1, 5, 2], -1)[1] + 1,
    "chunk": lambda s: s.x.chunk(3, -1)[2] + 1,
    "tensor_split": lambda s: torch.tensor_split(s.x, 3, -1)[1] + 1,
    "unbind": lambda s: s.m.unbind(1)[3] + 1,
    "cat": lambda s: torch.cat([s.x, s.half, s.y], 1),
    "cat_empty": lambda s: torch.cat([torch.zeros(0), s.row]),
    "concat": lambda s: torch.concat([s.x, s.y], -1),
    "stack": lambda s: torch.stack([s.x, s.y], -1),
    "pad": lambda s: F.pad(s.x, (1, 2, 0, 3), value=0.5),
    "constant_pad_nd": lambda s: aten.constant_pad_nd.default(s.x, (2, 0)),
    "pad_negative": lambda s: F.pad(s.x, (-2, 3, 1, -1), value=0.5),
    "pad_causal": lambda s: aten.constant_pad_nd.default(s.x, (0, 0, 2, -2)),
    "repeat": lambda s: s.x.repeat(2, 1, 3),
    "repeat_more_axes": lambda s: s.row.repeat(3, 2),
    "repeat_interleave": lambda s: s.q.repeat_interleave(2, 1) + 1,
    "roll": lambda s: torch.roll(s.x, 3, -1),
    "embedding": lambda s: F.embedding(s.i, s.m),
    "index_select": lambda s: s.x.index_select(-1, torch.tensor([3, 0, 3])),
    "index_first": lambda s: s.m[s.i],
    "index_second": lambda s: s.m[:, s.i],
    "index_two": lambda s: s.stack[:, s.i % 8, s.j % 6] + 1,
    "index_two_broadcast": lambda s: s.x[s.i[:, :1] % 3, s.i[:1] % 4] + 1,
    "index_all": lambda s: s.m[s.i, s.j] + 1,
    "gather": lambda s: s.x.gather(-1, s.i[..., None]) + 1,
    "gather_middle": lambda s: s.x.gather(1, s.i[:, :2, None] % 4) + 1,
    "copy": lambda s: aten.copy.default(s.x, s.row),
    "slice_scatter": lambda s: torch.slice_scatter(s.x, s.y[..., 2:5], -1, 2, 5),
    "slice_scatter_all": lambda s: torch.slice_scatter(s.x, s.y, 1),
    "select_scatter": lambda s: torch.select_scatter(s.x, s.y[..., 0], -1, -1),
    # making elements
    "full": lambda s: torch.full((2, 3), 7),
    "full_like": lambda s: torch.full_like(s.x, 2) + 1,
    "new_full": lambda s: s.x.new_full((s.x.shape[1],), 2),
    "fill": lambda s: aten.fill.Scalar(s.x, 3),
    "scalar_tensor": lambda s: aten.scalar_tensor.default(2.5),
    "zeros": lambda s: torch.zeros(2, 3),
    "zeros_like": lambda s: torch.zeros_like(s.i) + 1,
    "new_zeros": lambda s: s.x.new_zeros((2, s.x.shape[1])),
    "ones": lambda s: torch.ones(3, dtype=torch.int8),
    "ones_like": lambda s: torch.ones_like(s.x),
    "new_ones": lambda s: s.x.new_ones(3),
    "arange": lambda s: torch.arange(s.x.shape[1]),
    "arange_float": lambda s: torch.arange(6, dtype=torch.float32) * 0.5,
    "arange_start": lambda s: torch.arange(2, 7),
    "arange_step": lambda s: torch.arange(1, 9, 3),
    "triu": lambda s: s.m.triu(1),
    "tril": lambda s: s.m.tril(-1),
    # contractions, norms, attention, convolution
    "linear": lambda s: F.linear(s.x, s.m),
    "linear_bias": lambda s: F.linear(s.x, s.m, s.row),
    "matmul": lambda s: s.x @ s.m,
    "matmul_transposed": lambda s: s.x @ s.m.t(),
    "matmul_stacks": lambda s: s.x @ s.stack,
    "matmul_vector": lambda s: s.x @ s.row,
    "vector_matmul": lambda s: s.row @ s.m,
    "mm": lambda s: torch.mm(s.m, s.m),
    "bmm": lambda s: torch.bmm(s.x, s.stack),
    "mv": lambda s: torch.mv(s.m, s.row),
    "dot": lambda s: torch.dot(s.row, s.row),
    "addmm": lambda s: torch.addmm(s.row, s.m, s.m.t()),
    "addmm_scaled": lambda s: torch.addmm(s.m, s.m, s.m, beta=0.5, alpha=2),
    "baddbmm": lambda s: torch.baddbmm(s.x[..., :6], s.x, s.stack),
    "rms_norm": lambda s: F.rms_norm(s.x, (8,), s.row, 1e-6),
    "rms_norm_default_eps": lambda s: F.rms_norm(s.x * 1e-3, (8,)),
    "layer_norm": lambda s: F.layer_norm(s.x, (8,), s.row, s.row + 1),
    "native_layer_norm": lambda s: aten.native_layer_norm.default(s.x, [8], s.row, None, 1e-5)[0],
    "attention": lambda s: F.scaled_dot_product_attention(s.q, s.q, s.q),
    "attention_causal": lambda s: F.scaled_dot_product_attention(s.q, s.q, s.q, is_causal=True),
    "attention_mask": lambda s: F.scaled_dot_product_attention(
        s.q, s.q, s.q, attn_mask=torch.ones(6, 6).tril().bool(), scale=0.3
    ),
    "attention_bias": lambda s: F.scaled_dot_product_attention(
        s.q, s.q, s.q, attn_mask=torch.ones(6, 6)
    ),
    "attention_grouped": lambda s: F.scaled_dot_product_attention(s.q, s.k, s.k, enable_gqa=True),
    "conv1d": lambda s: F.conv1d(s.stack, s.m[:, None, :4], s.row, groups=8),
    "conv1d_causal": lambda s: F.conv1d(s.x.mT, s.m[:, None, :3], padding=2, groups=8)[..., :-2],
    "conv1d_stride": lambda s: F.conv1d(s.stack, s.m[:6, :, None], s.row[:6], stride=2, padding=1),
    # images
    "conv2d": lambda s: F.conv2d(s.q, _taps(s.m, 3, 4), s.row[:3], stride=(2, 1), padding=(1, 0)),
    "conv2d_groups": lambda s: F.conv2d(s.q, _taps(s.m, 6, 2), groups=2, dilation=2),
    "conv2d_depthwise": lambda s: F.conv2d(s.q, _taps(s.m, 4, 1), s.row[:4], groups=4),
    "batch_norm": lambda s: F.batch_norm(
        s.stack, s.row, s.row.abs(), s.m[0], s.m[1], False, 0.1, 1e-4
    ),
    "batch_norm_core": lambda s: aten._native_batch_norm_legit_no_training.default(
        s.stack, None, None, s.row, s.row.abs(), 0.1, 1e-4
    )[0],
    "max_pool2d": lambda s: F.max_pool2d(s.q, 3, 2, 1),
    "avg_pool2d": lambda s: F.avg_pool2d(s.q, 2, padding=1),
    "adaptive_avg_pool2d": lambda s: F.adaptive_avg_pool2d(s.q, 1),
    # MMC's own
    "round_half_away": lambda s: torch.ops.mmc.round_half_away(torch.round(s.x * 4) / 2),
    "take_position": lambda s: torch.ops.mmc.take_position(s.x, s.i[:, 0] % 3),
    "causal_conv": lambda s: torch.ops.mmc.causal_conv(s.x, s.stack.mT[:, :3], s.m[:, :4]),
    "rotary": lambda s: torch.ops.mmc.rotary(s.x.unflatten(-1, (2, 4)), s.x[..., :2], s.y[..., :2]),
    "cache_append": lambda s: torch.ops.mmc.cache_append(
        s.k, torch.stack([s.x, s.y], 2), s.i[:, 0] % 3, s.i[:, 1] % 3
    ),
    "attention_cached": lambda s: torch.ops.mmc.attention(
        torch.stack([s.x, s.y, s.x, s.x], 2), s.k, s.k * 2, s.i[:, 0] % 2, 0.5
    ),
    "conv_window": lambda s: torch.ops.mmc.conv_window(s.x, s.stack.mT[:, :3], s.i[:, 0] % 4),
}


def _taps(m: Tensor, count: int, width: int) -> Tensor:
    return m.flatten()[: count * width * 4].reshape(count, width, 2, 2)


SPELT_OUT: dict[str, Case] = {
    "einsum": lambda s: torch.einsum("btk,nk->btn", s.x, s.m),
    "leaky_relu": lambda s: F.leaky_relu(s.x),
    "in_place": lambda s: (s.x * 2).clamp_(min=0).add_(1),
    "assigned": lambda s: _assigned(s.u),
    "no_grad": lambda s: _without_gradient(s.x),
}
"""Not in the table, or written in place: torch has to spell them out first."""


def _assigned(packed: Tensor) -> Tensor:
    """Hugging Face's way of unpacking 2-bit weights."""
    codes = torch.zeros(8, 8, dtype=torch.uint8)
    for i in range(4):
        codes[2 * i : 2 * i + 2] = (packed >> (2 * i)) & 3
    return codes.to(torch.float32) - 1


def _without_gradient(x: Tensor) -> Tensor:
    with torch.enable_grad():
        doubled = x * 2
    return doubled + 1
