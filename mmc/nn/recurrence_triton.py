"""The linear recurrence on a GPU: a program goes over the positions of some columns, tile by tile.

Within a tile of ROWS positions the pairs (f, i) are combined in parallel,
(f, i) then (f', i') = (f * f', f' * i + i'); what the tile before left is added to each row.
Everything is read once and written once.
"""

# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# Triton comes with torch where there is a GPU.
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 32, 64
"""The fastest of seven on an H100, for [64, 512, 384]."""


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
