"""The linear recurrence h[t] = f[t] * h[t-1] + i[t], all positions at once, with its gradient.

Its backward pass is the same recurrence from the end: with d the gradient of h,
d[t] += f[t+1] * d[t+1];  the gradient of i is d, that of f is d[t] * h[t-1].
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnusedFunction=false, reportUntypedFunctionDecorator=false
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def gated_scan(f: Tensor, i: Tensor, lower_bound: Tensor | None) -> Tensor:
    """The MLGRU's h [B, T, D] from the projections f and i [B, T, D]; lower_bound [D].

    Gates in float32: a bfloat16 holds no decay between 0.996 and 1.
    """
    if f.is_cuda:
        return fused_gated_scan(f, i, lower_bound)
    decay = f.float().sigmoid()
    if lower_bound is not None:
        decay = lower_bound + (1 - lower_bound) * decay
    return linear_scan(decay, nn.functional.silu(i.float()) * (1 - decay))


@torch.library.custom_op("mmc::linear_scan", mutates_args=())
def linear_scan(f: Tensor, i: Tensor) -> Tensor:
    """Every h [B, T, D], from h = 0 before the first position; f, i f32[B, T, D], f in [0, 1].

    Products of f only shrink, and nothing is divided by: no step loses what the recurrence keeps.
    """
    return _doubling(f, i)


@torch.library.custom_op("mmc::linear_scan_backward", mutates_args=())
def _linear_scan_backward(f: Tensor, h: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of f and i, each [B, T, D]."""
    after = torch.cat([f[:, 1:], torch.zeros_like(f[:, :1])], 1)
    grad_i = _doubling(after.flip(1), grad.flip(1)).flip(1)
    before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
    return grad_i * before, grad_i


def _doubling(f: Tensor, i: Tensor) -> Tensor:
    """In log2(T) rounds; after each, position t has taken in twice as many before it."""
    f, i, step = f.clone(), i.clone(), 1
    while step < f.shape[1]:
        i[:, step:] += f[:, step:] * i[:, :-step]
        f[:, step:] = f[:, step:] * f[:, :-step]
        step *= 2
    return i


@linear_scan.register_fake
def _like_i(f: Tensor, i: Tensor) -> Tensor:
    return torch.empty_like(i, memory_format=torch.contiguous_format)


@_linear_scan_backward.register_fake
def _like_f_and_h(f: Tensor, h: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(h), torch.empty_like(h)


@linear_scan.register_kernel("cuda")
def _on_gpu(f: Tensor, i: Tensor) -> Tensor:
    from mmc.nn.recurrence_triton import scan

    return scan(f.contiguous(), i.contiguous())


@_linear_scan_backward.register_kernel("cuda")
def _backward_on_gpu(f: Tensor, h: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    from mmc.nn.recurrence_triton import scan_backward

    return scan_backward(f.contiguous(), h, grad.contiguous())


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return _linear_scan_backward(*ctx.saved_tensors, grad)


linear_scan.register_autograd(_gradients, setup_context=_save)


@torch.library.custom_op("mmc::gated_scan", mutates_args=())
def fused_gated_scan(f: Tensor, i: Tensor, lower_bound: Tensor | None) -> Tensor:
    """`gated_scan` in Triton, in the type of f and i, which are all that is kept besides h."""
    from mmc.nn.recurrence_triton import gated_scan

    return gated_scan(f.contiguous(), i.contiguous(), lower_bound)


@torch.library.custom_op("mmc::gated_scan_backward", mutates_args=())
def _gated_scan_backward(
    f: Tensor, i: Tensor, lower_bound: Tensor | None, h: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of f, i and the bound; that of an absent bound is empty."""
    from mmc.nn.recurrence_triton import gated_scan_backward

    given = (f.contiguous(), i.contiguous(), lower_bound, h, grad.contiguous())
    return gated_scan_backward(*given)


@fused_gated_scan.register_fake
def _like_f(f: Tensor, i: Tensor, lower_bound: Tensor | None) -> Tensor:
    return torch.empty_like(f, memory_format=torch.contiguous_format)


@_gated_scan_backward.register_fake
def _like_all(
    f: Tensor, i: Tensor, lower_bound: Tensor | None, h: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    bound = 0 if lower_bound is None else f.shape[-1]
    return torch.empty_like(h), torch.empty_like(h), f.new_empty(bound, dtype=torch.float32)


def _save_gates(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


def _gate_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    kept = ctx.saved_tensors  # once: a checkpoint computes them again for whoever asks
    grad_f, grad_i, grad_bound = _gated_scan_backward(*kept, grad)
    return grad_f, grad_i, None if kept[2] is None else grad_bound


fused_gated_scan.register_autograd(_gate_gradients, setup_context=_save_gates)
