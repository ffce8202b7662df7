"""What the operators of this package have in common: their shapes and their gradients.

Such an operator takes tensors, options, and last the type of its result.  It returns the result,
and what only its backward pass reads: statistics of rows f32 [3, M] and of the weight f32 [].
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def empty_outputs(x: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs for rows x [..., K] and a weight [N, K], not filled."""
    y = x.new_empty((*x.shape[:-1], len(weight)), dtype=dtype)
    rows = x.new_empty((3, x.shape[:-1].numel()), dtype=torch.float32)
    return y, rows, x.new_empty((), dtype=torch.float32)


def empty_gradient(given: Tensor | None, there: Tensor) -> Tensor:
    """The gradient of a tensor, not filled; that of an absent one has no elements."""
    if given is None:
        return there.new_empty(0, dtype=torch.float32)
    return torch.empty_like(given, memory_format=torch.contiguous_format)


def differentiate(operator: Any, backward: Callable[..., tuple[Tensor, ...]], tensors: int) -> None:
    """Let `backward(grad, *statistics, *tensors, *options)` give a custom operator's gradients.

    tensors: how many the operator takes, absent ones included.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:], *inputs[:tensors])
        ctx.options = inputs[tensors:-1]

    def gradients(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        found = backward(grad, *kept, *ctx.options)
        grads = [None if x is None else each for x, each in zip(kept[2:], found, strict=True)]
        return (*grads, *[None] * (len(ctx.options) + 1))

    operator.register_autograd(gradients, setup_context=save)
