"""What the MLGRU makes of its projections, as one operator on a GPU: scan, gate, norm, product.

The hidden states are between the scan and the product, and both need them in their backward pass.
They are not kept: the backward pass scans f and i once more.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportUnusedFunction=false
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmc.frontends.models.bit_linear import RmsNorm
from mmc.nn.bit_linear import BitLinear
from mmc.nn.operators import differentiate, empty_gradient, empty_outputs


def gated_output(
    layer: BitLinear,
    f: Tensor,
    i: Tensor,
    bound: Tensor | None,
    g: Tensor,
    norm: RmsNorm | None,
    gates: bool,
) -> Tensor:
    """`layer` of h = gated_scan(f, i, bound) and g, all [B, T, D]; bound [D].

    gates: the layer reads norm(g) * silu(h), as released; else norm(h) * silu(g), and without a
    norm h * sigmoid(g).
    """
    norm_gain, norm_eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
    quantiser, activation = layer.quantiser, "sigmoid" if norm is None else "silu"
    return _gated_output(
        f, i, bound, g, norm_gain, layer.weight, layer.gain, gates, activation, quantiser.rounding,
        norm_eps, quantiser.norm_eps or 0.0, quantiser.eps, layer.gpu_dtype(g),
    )[0]  # fmt: skip


@torch.library.custom_op("mmc::gated_output", mutates_args=())
def _gated_output(
    f: Tensor,
    i: Tensor,
    bound: Tensor | None,
    g: Tensor,
    norm_gain: Tensor | None,
    weight: Tensor,
    gain: Tensor | None,
    gates: bool,
    activation: str,
    rounding: str,
    norm_eps: float,
    own_eps: float,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the statistics of rows [3, B * T] and weight []."""
    from mmc.nn.bit_linear_triton import Row, forward
    from mmc.nn.recurrence_triton import gated_scan

    h = gated_scan(f.contiguous(), i.contiguous(), bound)
    value, gate = _value_and_gate(h, g, gates)
    row = Row(value, gate, norm_gain, gain, activation, rounding, norm_eps, own_eps, eps)
    y, statistics, mean = forward(row, weight, dtype)
    return y.view(*g.shape[:-1], len(weight)), statistics, mean


@torch.library.custom_op("mmc::gated_output_backward", mutates_args=())
def _backward(
    grad: Tensor,
    statistics: Tensor,
    mean: Tensor,
    f: Tensor,
    i: Tensor,
    bound: Tensor | None,
    g: Tensor,
    norm_gain: Tensor | None,
    weight: Tensor,
    gain: Tensor | None,
    gates: bool,
    activation: str,
    rounding: str,
    norm_eps: float,
    own_eps: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the seven tensors; that of an absent one is empty."""
    from mmc.nn.bit_linear_triton import Row, backward
    from mmc.nn.recurrence_triton import gated_scan, gated_scan_backward

    f, i = f.contiguous(), i.contiguous()
    h = gated_scan(f, i, bound)
    value, gate = _value_and_gate(h, g, gates)
    row = Row(value, gate, norm_gain, gain, activation, rounding, norm_eps, own_eps, eps)
    grad_h, grad_g = empty_gradient(h, h), empty_gradient(g, g)
    filled = _value_and_gate(grad_h, grad_g, gates)
    rows = grad.flatten(0, -2).contiguous()
    of_weights = backward(row, weight, statistics, mean, rows, *filled)
    grad_f, grad_i, grad_bound = gated_scan_backward(f, i, bound, h, grad_h)
    return grad_f, grad_i, grad_bound, grad_g, *of_weights


def _value_and_gate(h: Tensor, g: Tensor, gates: bool) -> tuple[Tensor, Tensor]:
    """As [B * T, D]."""
    h, g = h.flatten(0, -2), g.flatten(0, -2)
    return (g, h) if gates else (h, g)


@_gated_output.register_fake
def _shape(f: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty_outputs(f, given[4], given[-1])


@_backward.register_fake
def _shapes(grad: Tensor, *given: Any) -> tuple[Tensor, ...]:
    return tuple(empty_gradient(each, grad) for each in given[2:9])


differentiate(_gated_output, _backward, 7)
