"""BitLinear on a GPU as one operator, with the norm and the gate before it, in Triton.

What is kept for the backward pass is x and gate as they were given.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportUnusedFunction=false
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmc.nn.operators import differentiate, empty_gradient, empty_outputs


@torch.library.custom_op("mmc::bit_linear", mutates_args=())
def fused_bit_linear(
    x: Tensor,
    gate: Tensor | None,
    norm_gain: Tensor | None,
    weight: Tensor,
    gain: Tensor | None,
    halves: bool,
    activation: str,
    rounding: str,
    norm_eps: float,
    own_eps: float,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """`BitLinear.forward`, and the statistics of rows [3, M] and weight [].

    norm_gain, norm_eps: of the norm before it.  dtype: of the result.
    """
    from mmc.nn.bit_linear_triton import Row, forward

    value, gate = _rows(x, gate, halves)
    row = Row(value, gate, norm_gain, gain, activation, rounding, norm_eps, own_eps, eps)
    y, statistics, mean = forward(row, weight, dtype)
    return y.view(*x.shape[:-1], len(weight)), statistics, mean


@torch.library.custom_op("mmc::bit_linear_backward", mutates_args=())
def _backward(
    grad: Tensor,
    statistics: Tensor,
    mean: Tensor,
    x: Tensor,
    gate: Tensor | None,
    norm_gain: Tensor | None,
    weight: Tensor,
    gain: Tensor | None,
    halves: bool,
    activation: str,
    rounding: str,
    norm_eps: float,
    own_eps: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the five tensors; that of an absent one is empty."""
    from mmc.nn.bit_linear_triton import Row, backward

    value, gates = _rows(x, gate, halves)
    row = Row(value, gates, norm_gain, gain, activation, rounding, norm_eps, own_eps, eps)
    grad_x, grad_gate = empty_gradient(x, x), empty_gradient(gate, x)
    grads = _rows(grad_x, None if gate is None else grad_gate, halves)
    return grad_x, grad_gate, *backward(row, weight, statistics, mean, _matrix(grad), *grads)


@fused_bit_linear.register_fake
def _shape(x: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty_outputs(x, given[2], given[-1])


@_backward.register_fake
def _shapes(grad: Tensor, *given: Any) -> tuple[Tensor, ...]:
    return tuple(empty_gradient(each, grad) for each in given[2:7])


def _rows(x: Tensor, gate: Tensor | None, halves: bool) -> tuple[Tensor, Tensor | None]:
    """Value and gate as [M, K]."""
    if halves:
        gate, value = _matrix(x).chunk(2, -1)
        return value, gate
    return _matrix(x), None if gate is None else _matrix(gate)


def _matrix(x: Tensor) -> Tensor:
    x = x.flatten(0, -2)
    return x if x.stride(-1) == 1 else x.contiguous()


differentiate(fused_bit_linear, _backward, 5)
