"""BitLinear on a GPU: whole numbers of 8 bits times three values on the tensor cores.

A row (a token) is read once, and its norms, its gate and its rounding happen on chip.  Forward:

    value, gate [M, K]  ->  q i8[M, K], statistics f32[3, M]    _quantise_rows
    weight [N, K]       ->  trits i8[N, K]                      _quantise_weight
    q, trits            ->  y [M, N]                            _multiply: exact sums, scaled once

Backward: two products of torch's, and between them `_differentiate_rows`, which computes the row
again, and writes what it was rounded to and the gradients of value, gate and gains.  The statistics
of a row are what it was multiplied by before rounding and the inverse root mean squares of its own
norm and of the norm before.
"""

# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# Triton comes with torch where there is a GPU.
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

TILE = {"M": 128, "N": 256, "K": 128}
PROGRAMS = 132 * 8
"""Of `_differentiate_rows`: each goes over many rows and keeps a share of the gains' gradients."""


@dataclass(frozen=True)
class Row:
    """What BitLinear is given: value, normalised if there is a norm_gain, times act(gate).

    activation: "silu" or "sigmoid".  gain: of BitLinear's own norm, if it has one.
    """

    value: Tensor
    gate: Tensor | None
    norm_gain: Tensor | None
    gain: Tensor | None
    activation: str
    rounding: str
    norm_eps: float
    own_eps: float
    eps: float

    def arguments(self) -> dict[str, object]:
        """What both row kernels are given; an absent tensor is never read."""
        value = self.value
        gate, norm_gain, gain = (
            value if each is None else each for each in (self.gate, self.norm_gain, self.gain)
        )
        return {
            "value_ptr": value, "gate_ptr": gate, "norm_gain_ptr": norm_gain, "gain_ptr": gain,
            "width": value.shape[1], "value_stride": value.stride(0), "gate_stride": gate.stride(0),
            "norm_eps": self.norm_eps, "own_eps": self.own_eps, "eps": self.eps,
            "ACTIVATION": "" if self.gate is None else self.activation,
            "NORM": self.norm_gain is not None, "OWN_NORM": self.gain is not None,
            "ROUNDING": self.rounding, "BLOCK": triton.next_power_of_2(value.shape[1]),
        }  # fmt: skip


@triton.jit
def _activated(gate, ACTIVATION: tl.constexpr):
    """act(gate) and its derivative."""
    sigmoid = tl.sigmoid(gate)
    if ACTIVATION == "silu":
        return gate * sigmoid, sigmoid * (1 + gate * (1 - sigmoid))
    return sigmoid, sigmoid * (1 - sigmoid)


@triton.jit
def _rounded(x, ROUNDING: tl.constexpr):
    if ROUNDING == "half_up":
        return tl.floor(x + 0.5)
    below = tl.floor(x)
    over = x - below  # exact, unlike x + 0.5
    if ROUNDING == "half_even":
        up = (over > 0.5) | ((over == 0.5) & (tl.floor(below / 2) * 2 != below))
    else:
        up = (over > 0.5) | ((over == 0.5) & (x > 0))
    return tl.where(up, below + 1, below)


@triton.jit
def _whole_numbers(x, scale, ROUNDING: tl.constexpr):
    return tl.minimum(tl.maximum(_rounded(x * scale, ROUNDING), -128.0), 127.0)


@triton.jit
def _quantise_rows(
    value_ptr, gate_ptr, norm_gain_ptr, gain_ptr, q_ptr, statistics_ptr,
    rows, width, value_stride, gate_stride, q_stride, norm_eps, own_eps, eps,
    ACTIVATION: tl.constexpr, NORM: tl.constexpr, OWN_NORM: tl.constexpr, ROUNDING: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(value_ptr + row * value_stride + column, inside, 0.0).to(tl.float32)
    if NORM:
        inverse = 1 / tl.sqrt(tl.sum(x * x, 0) / width + norm_eps)
        tl.store(statistics_ptr + 2 * rows + row, inverse)
        x *= inverse * tl.load(norm_gain_ptr + column, inside, 0.0).to(tl.float32)
    if ACTIVATION != "":
        gate = tl.load(gate_ptr + row * gate_stride + column, inside, 0.0).to(tl.float32)
        x *= _activated(gate, ACTIVATION)[0]
    if OWN_NORM:
        inverse = 1 / tl.sqrt(tl.sum(x * x, 0) / width + own_eps)
        tl.store(statistics_ptr + rows + row, inverse)
        x *= inverse * tl.load(gain_ptr + column, inside, 0.0).to(tl.float32)
    scale = 127 / tl.maximum(tl.max(tl.abs(x), 0), eps)
    tl.store(statistics_ptr + row, scale)
    q = _whole_numbers(x, scale, ROUNDING)
    tl.store(q_ptr + row * q_stride + column, q.to(tl.int8), inside)


@triton.jit
def _differentiate_rows(
    value_ptr, gate_ptr, norm_gain_ptr, gain_ptr, grad_ptr, statistics_ptr, mean_ptr,
    rounded_ptr, grad_value_ptr, grad_gate_ptr, grad_norm_gain_ptr, grad_gain_ptr,
    rows, width, value_stride, gate_stride, grad_value_stride, grad_gate_stride,
    norm_eps, own_eps, eps,
    ACTIVATION: tl.constexpr, NORM: tl.constexpr, OWN_NORM: tl.constexpr, ROUNDING: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)
    inside = column < width
    mean = tl.load(mean_ptr)
    grad_norm_gain, grad_gain = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.program_id(0).to(tl.int64), rows, tl.num_programs(0)):
        value = tl.load(value_ptr + row * value_stride + column, inside, 0.0).to(tl.float32)
        grad = tl.load(grad_ptr + row * width + column, inside, 0.0).to(tl.float32) * mean
        scaled = value
        if NORM:
            inverse = tl.load(statistics_ptr + 2 * rows + row)
            norm_gain = tl.load(norm_gain_ptr + column, inside, 0.0).to(tl.float32)
            scaled = value * (inverse * norm_gain)
        x = scaled
        if ACTIVATION != "":
            gate = tl.load(gate_ptr + row * gate_stride + column, inside, 0.0).to(tl.float32)
            activated, slope = _activated(gate, ACTIVATION)
            x = scaled * activated
        y = x
        if OWN_NORM:
            own_inverse = tl.load(statistics_ptr + rows + row)
            gain = tl.load(gain_ptr + column, inside, 0.0).to(tl.float32)
            y = x * (own_inverse * gain)
        scale = tl.load(statistics_ptr + row)
        q = _whole_numbers(y, scale, ROUNDING)
        tl.store(rounded_ptr + row * width + column, q * (1 / scale), inside)
        if OWN_NORM:
            unit = x * own_inverse
            grad_gain += grad * unit
            grad *= gain
            along = tl.sum(grad * unit, 0) / width
            grad = own_inverse * (grad - unit * along)
        if ACTIVATION != "":
            at = row * grad_gate_stride + column
            tl.store(grad_gate_ptr + at, grad * scaled * slope, inside)
            grad *= activated
        if NORM:
            unit = value * inverse
            grad_norm_gain += grad * unit
            grad *= norm_gain
            if OWN_NORM:  # mean(grad * unit) as it is behind a norm, but for its eps 0
                along *= own_inverse * own_inverse * own_eps
            else:
                along = tl.sum(grad * unit, 0) / width
            grad = inverse * (grad - unit * along)
        tl.store(grad_value_ptr + row * grad_value_stride + column, grad, inside)
    share = tl.program_id(0) * width + column
    if OWN_NORM:
        tl.store(grad_gain_ptr + share, grad_gain, inside)
    if NORM:
        tl.store(grad_norm_gain_ptr + share, grad_norm_gain, inside)


@triton.jit
def _quantise_weight(
    weight_ptr, mean_ptr, trits_ptr, width, weight_stride, trits_stride, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    w = tl.load(weight_ptr + row * weight_stride + column, inside, 0.0).to(tl.float32)
    trits = _rounded(w * (1 / tl.load(mean_ptr)), "half_even")
    trits = tl.minimum(tl.maximum(trits, -1.0), 1.0)
    tl.store(trits_ptr + row * trits_stride + column, trits.to(trits_ptr.dtype.element_ty), inside)


@triton.jit
def _multiply(
    q, trits, scale_ptr, mean_ptr, y_ptr, rows, columns, depth,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """A tile of y; programs that run together share GROUP tiles of rows, and the columns."""
    tiles_m, tiles_n = tl.cdiv(rows, M), tl.cdiv(columns, N)
    number = tl.program_id(0)
    first = number // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - first, GROUP)
    m = (first + number % (GROUP * tiles_n) % height) * M
    n = number % (GROUP * tiles_n) // height * N
    sums = tl.zeros((M, N), tl.int32)
    for k in range(0, depth, K):
        sums = tl.dot(q.load([m, k]), trits.load([n, k]).T, sums, out_dtype=tl.int32)
    row, column = m + tl.arange(0, M), n + tl.arange(0, N)
    scale = tl.load(mean_ptr) / tl.load(scale_ptr + row, row < rows, 1.0)
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(y_ptr + at, (sums * scale[:, None]).to(y_ptr.dtype.element_ty), inside)


def forward(row: Row, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Y [M, N] of M rows and weight [N, K]; the statistics of rows and weight."""
    rows, columns = len(row.value), len(weight)
    q = _padded(row.value, torch.int8)
    statistics = torch.empty(3, rows, device=q.device)
    arguments = row.arguments()
    _quantise_rows[(rows,)](
        **arguments, q_ptr=q, statistics_ptr=statistics, rows=rows, q_stride=q.stride(0),
        num_warps=_warps(arguments["BLOCK"]),
    )  # fmt: skip
    mean = torch.linalg.vector_norm(weight, 1, dtype=torch.float32) / weight.numel()
    mean = mean.clamp(min=row.eps)
    trits = _ternary(weight, mean, torch.int8)
    y = torch.empty(rows, columns, device=q.device, dtype=dtype)
    blocks = triton.cdiv(rows, TILE["M"]) * triton.cdiv(columns, TILE["N"])
    _multiply[(blocks,)](
        TensorDescriptor.from_tensor(q, [TILE["M"], TILE["K"]]),
        TensorDescriptor.from_tensor(trits, [TILE["N"], TILE["K"]]),
        statistics, mean, y, rows, columns, q.shape[1], **TILE, GROUP=16, num_warps=8,
        num_stages=_stages(q),
    )  # fmt: skip
    return y, statistics, mean


def backward(
    row: Row, weight: Tensor, statistics: Tensor, mean: Tensor, grad: Tensor,
    grad_value: Tensor, grad_gate: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of norm_gain, weight and gain; those of value and gate are filled in.

    grad [M, N].  The gradient of an absent gain is empty.
    """
    grad_y = grad @ _ternary(weight, mean, grad.dtype)
    programs, arguments = min(len(grad), PROGRAMS), row.arguments()
    shares = [
        grad.new_empty((programs, 0 if each is None else len(each)), dtype=torch.float32)
        for each in (row.norm_gain, row.gain)
    ]
    rounded = torch.empty_like(grad_y)
    gate = grad_value if grad_gate is None else grad_gate
    _differentiate_rows[(programs,)](
        **arguments, grad_ptr=grad_y, statistics_ptr=statistics, mean_ptr=mean, rounded_ptr=rounded,
        grad_value_ptr=grad_value, grad_gate_ptr=gate,
        grad_norm_gain_ptr=shares[0], grad_gain_ptr=shares[1], rows=len(grad),
        grad_value_stride=grad_value.stride(0), grad_gate_stride=gate.stride(0),
        num_warps=_warps(arguments["BLOCK"]),
    )  # fmt: skip
    return shares[0].sum(0), _product(grad.mT, rounded, weight.dtype), shares[1].sum(0)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """A @ b, not rounded on the way where dtype is wider than theirs."""
    if a.is_cuda and a.dtype is not dtype:
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)


def _ternary(weight: Tensor, mean: Tensor, dtype: torch.dtype) -> Tensor:
    """-1, 0 or 1 [N, K]."""
    trits, block = _padded(weight, dtype), 2048
    grid = (len(weight), triton.cdiv(weight.shape[1], block))
    _quantise_weight[grid](
        weight, mean, trits, weight.shape[1], weight.stride(0), trits.stride(0), BLOCK=block
    )
    return trits


def _padded(like: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty [M, K] whose rows begin at multiples of 16 bytes, as bulk copies want it."""
    (rows, width), step = like.shape, 16 // dtype.itemsize
    whole = torch.empty(rows, triton.cdiv(width, step) * step, dtype=dtype, device=like.device)
    return whole[:, :width]


def _stages(q: Tensor) -> int:
    """Pairs of tiles that are on their way to the tensor cores, as many as fit; 48 KB each."""
    if not q.is_cuda:  # interpreted
        return 1
    there = torch.cuda.get_device_properties(q.device).shared_memory_per_block_optin
    return min(there // ((TILE["M"] + TILE["N"]) * TILE["K"]), 4)


def _warps(block: int) -> int:
    """Eight numbers a thread, as far as there are threads."""
    return min(max(block // 256, 4), 16)
