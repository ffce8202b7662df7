"""The linear recurrence on a GPU: a program goes over the positions of some columns, tile by tile.

Within a tile of ROWS positions the pairs (f, i) are combined in parallel,
(f, i) then (f', i') = (f * f', f' * i + i'); what the tile before left is added to each row.
Everything is read once and written once.
"""

# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false
# Triton comes with torch where there is a GPU.
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 32, 64
"""The fastest of seven on an H100, for [64, 512, 384]."""
GATED_ROWS, GATED_COLUMNS = 32, 32
"""Likewise of ten, for [8, 2048, 2048]."""


@triton.jit
def _then(f, i, f_next, i_next):
    return f * f_next, f_next * i + i_next


@triton.jit
def _forward(f_ptr, i_ptr, h_ptr, time, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    start = tl.program_id(0).to(tl.int64) * time * width
    carry = tl.zeros((1, COLUMNS), tl.float32)
    for first in range(0, time, ROWS):
        inside = (first + row < time) & (column < width)
        at = start + (first + row) * width + column
        f = tl.load(f_ptr + at, inside, 1.0)
        i = tl.load(i_ptr + at, inside, 0.0)
        f, i = tl.associative_scan((f, i), 0, _then)
        h = i + f * carry
        tl.store(h_ptr + at, h, inside)
        carry = tl.sum(tl.where(row == ROWS - 1, h, 0.0), 0, keep_dims=True)


@triton.jit
def _backward(
    f_ptr, h_ptr, grad_ptr, grad_f_ptr, grad_i_ptr, time, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    start = tl.program_id(0).to(tl.int64) * time * width
    carry = tl.zeros((1, COLUMNS), tl.float32)
    for tile in range(0, tl.cdiv(time, ROWS)):
        # Row 0 of a tile is its last position: the scan runs on towards the first.
        position = time - 1 - tile * ROWS - row
        inside = (position >= 0) & (column < width)
        at = start + position * width + column
        f_after = tl.load(f_ptr + at + width, inside & (position < time - 1), 0.0)
        grad = tl.load(grad_ptr + at, inside, 0.0)
        f_after, grad = tl.associative_scan((f_after, grad), 0, _then)
        grad = grad + f_after * carry
        before = tl.load(h_ptr + at - width, inside & (position > 0), 0.0)
        tl.store(grad_i_ptr + at, grad, inside)
        tl.store(grad_f_ptr + at, grad * before, inside)
        carry = tl.sum(tl.where(row == ROWS - 1, grad, 0.0), 0, keep_dims=True)


def scan(f: Tensor, i: Tensor) -> Tensor:
    """`linear_scan` of contiguous f and i, f32[B, T, D]."""
    h = torch.empty_like(i)
    batch, time, width = f.shape
    grid = (batch, triton.cdiv(width, COLUMNS))
    _forward[grid](f, i, h, time, width, ROWS=ROWS, COLUMNS=COLUMNS)
    return h


def scan_backward(f: Tensor, h: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of f and i."""
    grad_f, grad_i = torch.empty_like(h), torch.empty_like(h)
    batch, time, width = f.shape
    grid = (batch, triton.cdiv(width, COLUMNS))
    _backward[grid](f, h, grad, grad_f, grad_i, time, width, ROWS=ROWS, COLUMNS=COLUMNS)
    return grad_f, grad_i


@triton.jit
def _gates(f, i, bound):
    """The decay and what is taken in, of the projections."""
    decay = bound + (1 - bound) * tl.sigmoid(f)
    return decay, i * tl.sigmoid(i) * (1 - decay)


@triton.jit
def _gated_forward(
    f_ptr, i_ptr, bound_ptr, h_ptr, time, width,
    BOUND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    at = tl.program_id(0).to(tl.int64) * time * width + row * width + column
    bound = tl.zeros((1, COLUMNS), tl.float32)
    if BOUND:
        bound = tl.load(bound_ptr + column, column < width, 0.0).to(tl.float32)
    carry = tl.zeros((1, COLUMNS), tl.float32)
    inside = (row < time) & (column < width)
    f_next, i_next = tl.load(f_ptr + at, inside, 0.0), tl.load(i_ptr + at, inside, 0.0)
    for first in range(0, time, ROWS):
        f, i = _gates(f_next.to(tl.float32), i_next.to(tl.float32), bound)
        # The next tile is on its way while this one is combined.
        ahead = at + ROWS * width
        inside_ahead = (first + ROWS + row < time) & (column < width)
        f_next = tl.load(f_ptr + ahead, inside_ahead, 0.0)
        i_next = tl.load(i_ptr + ahead, inside_ahead, 0.0)
        f, i = tl.associative_scan((f, i), 0, _then)
        h = i + f * carry
        tl.store(h_ptr + at, h, inside)
        carry = tl.sum(tl.where(row == ROWS - 1, h, 0.0), 0, keep_dims=True)
        at, inside = ahead, inside_ahead


@triton.jit
def _gated_backward(
    f_ptr, i_ptr, bound_ptr, h_ptr, grad_ptr, grad_f_ptr, grad_i_ptr, grad_bound_ptr, time, width,
    BOUND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    start = tl.program_id(0).to(tl.int64) * time * width
    bound = tl.zeros((1, COLUMNS), tl.float32)
    if BOUND:
        bound = tl.load(bound_ptr + column, column < width, 0.0).to(tl.float32)
    carry, grad_bound = tl.zeros((1, COLUMNS), tl.float32), tl.zeros((1, COLUMNS), tl.float32)
    for tile in range(0, tl.cdiv(time, ROWS)):
        # Row 0 of a tile is its last position: the scan runs on towards the first.
        position = time - 1 - tile * ROWS - row
        inside = (position >= 0) & (column < width)
        at = start + position * width + column
        later = inside & (position < time - 1)
        f_after = tl.load(f_ptr + at + width, later, 0.0).to(tl.float32)
        f = tl.load(f_ptr + at, inside, 0.0).to(tl.float32)
        i = tl.load(i_ptr + at, inside, 0.0).to(tl.float32)
        grad = tl.load(grad_ptr + at, inside, 0.0).to(tl.float32)
        before = tl.load(h_ptr + at - width, inside & (position > 0), 0.0).to(tl.float32)
        f_after = tl.where(later, bound + (1 - bound) * tl.sigmoid(f_after), 0.0)
        f_after, grad = tl.associative_scan((f_after, grad), 0, _then)
        grad = grad + f_after * carry
        carry = tl.sum(tl.where(row == ROWS - 1, grad, 0.0), 0, keep_dims=True)
        sigmoid, swish = tl.sigmoid(f), tl.sigmoid(i)
        closed = (1 - bound) * (1 - sigmoid)
        slope = swish * (1 + i * (1 - swish))
        grad_decay = tl.where(inside, grad * (before - i * swish), 0.0)
        tl.store(grad_i_ptr + at, grad * closed * slope, inside)
        tl.store(grad_f_ptr + at, grad_decay * closed * sigmoid, inside)
        grad_bound += tl.sum(grad_decay * (1 - sigmoid), 0, keep_dims=True)
    if BOUND:
        here = tl.program_id(0) * width + column
        tl.store(grad_bound_ptr + here, grad_bound, column < width)


def gated_scan(f: Tensor, i: Tensor, bound: Tensor | None) -> Tensor:
    """`mmc.nn.recurrence.gated_scan` of contiguous f and i [B, T, D]; h is in their type."""
    h = torch.empty_like(i)
    batch, time, width = f.shape
    grid = (batch, triton.cdiv(width, GATED_COLUMNS))
    _gated_forward[grid](
        f, i, f if bound is None else bound, h, time, width,
        BOUND=bound is not None, ROWS=GATED_ROWS, COLUMNS=GATED_COLUMNS,
    )  # fmt: skip
    return h


def gated_scan_backward(
    f: Tensor, i: Tensor, bound: Tensor | None, h: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of f, i and bound."""
    grad_f, grad_i = torch.empty_like(f), torch.empty_like(i)
    batch, time, width = f.shape
    grad_bound = f.new_empty((batch, 0 if bound is None else width), dtype=torch.float32)
    grid = (batch, triton.cdiv(width, GATED_COLUMNS))
    _gated_backward[grid](
        f, i, f if bound is None else bound, h, grad, grad_f, grad_i, grad_bound, time, width,
        BOUND=bound is not None, ROWS=GATED_ROWS, COLUMNS=GATED_COLUMNS,
    )  # fmt: skip
    return grad_f, grad_i, grad_bound.sum(0)
