"""BitLinear for training: norm, quantisation and product in one function that keeps x alone.

The fused form of arXiv:2406.02528, section 3.2: what the backward pass needs besides x and the
parameters (the normalised x, its int8, the ternary matrix) is computed again there.  The plain
function is for CPUs; a GPU has its own (`fused_bit_linear.py`).
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmc.frontends.models.bit_linear import ROUNDINGS, Quantiser, RmsNorm
from mmc.frontends.models.bit_linear import BitLinear as Reference
from mmc.frontends.models.operators import round_half_away
from mmc.nn.fused_bit_linear import fused_bit_linear

_ROUNDINGS = {**ROUNDINGS, "half_away": round_half_away}
"""The plain function, which torch.compile sees into, in the place of the traced operator."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
}

INIT_STD = 0.02
"""Of matrices that start at random, as in the released configuration (initializer_range)."""


class BitLinear(Reference):
    """x [..., inputs] -> [..., outputs] in x's type, or in autocast's.

    bias: added to the product in floats; the checkpoints of ternary models hold none.
    """

    def __init__(
        self, inputs: int, outputs: int, quantiser: Quantiser | None = None, bias: bool = False
    ) -> None:
        super().__init__(inputs, outputs, quantiser or Quantiser())
        nn.init.normal_(self.weight, std=INIT_STD)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(
        self,
        x: Tensor,
        gate: Tensor | None = None,
        norm: RmsNorm | None = None,
        activation: str = "silu",
        halves: bool = False,
    ) -> Tensor:
        """Of norm(x) * activation(gate), as far as they are given.

        What comes before the layer is said here where a GPU is to compute it in one with the layer,
        and again in the backward pass: x and gate are all that is kept.  halves: x
        [..., 2 inputs] is gate and x, side by side.
        """
        product = self.on_gpu if x.is_cuda else self.plain
        y = product(x, gate, norm, activation, halves)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def plain(
        self, x: Tensor, gate: Tensor | None, norm: RmsNorm | None, activation: str, halves: bool
    ) -> Tensor:
        if halves:
            gate, x = x.chunk(2, -1)
        x = x if norm is None else norm(x.float())
        x = x if gate is None else x * ACTIVATIONS[activation](gate)
        return bit_linear(x, self.weight, self.gain, self.quantiser)

    def on_gpu(
        self, x: Tensor, gate: Tensor | None, norm: RmsNorm | None, activation: str, halves: bool
    ) -> Tensor:
        norm_gain, norm_eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
        own, quantiser = self.gain, self.quantiser
        return fused_bit_linear(
            x, gate, norm_gain, self.weight, own, halves, activation, quantiser.rounding,
            norm_eps, quantiser.norm_eps or 0.0, quantiser.eps, self.gpu_dtype(x),
        )[0]  # fmt: skip

    def gpu_dtype(self, x: Tensor) -> torch.dtype:
        """The type of the result of x: autocast's, where there is one."""
        autocast = torch.is_autocast_enabled("cuda")
        return torch.get_autocast_dtype("cuda") if autocast else x.dtype

    @torch.no_grad()
    def settle(self) -> None:
        """Make the master weights what they are rounded to; the product stays the same.

        In training many weights come to lie beside a threshold, and another number format would
        push them all to one side.  Each becomes -c, 0 or c; c keeps the mean of their sizes.
        """
        trits, scale = _weights(self.weight, self.quantiser.eps)
        self.weight.copy_(trits / (scale * trits.abs().mean().clamp(min=1e-9)))

    @property
    def gain(self) -> Tensor | None:
        """Of its norm, where it has one."""
        return self.norm.weight if isinstance(self.norm, RmsNorm) else None


def bit_linear(x: Tensor, weight: Tensor, gain: Tensor | None, quantiser: Quantiser) -> Tensor:
    """`Reference.forward` of x [..., K], weight [N, K], gain [K]; None where there is no norm.

    The factors of the product are whole numbers up to 128, which bfloat16 holds: under autocast
    the sums are exact, and only y is rounded.
    """
    eps, rounding = quantiser.eps, quantiser.rounding
    return _BitLinear.apply(x, weight, gain, quantiser.norm_eps or 0.0, eps, rounding)


def _normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """X over its root mean square, and the inverse of that."""
    inverse = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    return x * inverse, inverse


def _activations(x: Tensor, eps: float, rounding: str) -> tuple[Tensor, Tensor]:
    """Whole numbers from -128 to 127, and what they are to be divided by, one a token."""
    scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=eps)
    return _ROUNDINGS[rounding](x * scale).clamp(-128, 127), scale


def _weights(w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """-1, 0 or 1, and what they are to be divided by, one for the matrix."""
    scale = 1 / w.abs().mean().clamp(min=eps)
    return (w * scale).round().clamp(-1, 1), scale


class _BitLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, gain: Tensor | None, norm_eps: float, eps: float, rounding: str
    ) -> Tensor:
        y = x.float()
        if gain is not None:
            y = _normalise(y, norm_eps)[0] * gain
        q, scale = _activations(y, eps, rounding)
        trits, weight_scale = _weights(weight.float(), eps)
        sums = nn.functional.linear(q, trits)
        return (sums / (scale * weight_scale)).to(sums.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, gain, *ctx.options = inputs
        ctx.save_for_backward(x, weight, gain)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, weight, gain) = grads, ctx.saved_tensors
        norm_eps, eps, rounding = ctx.options
        unit, inverse = _normalise(x.float(), norm_eps) if gain is not None else (x.float(), 1.0)
        q, scale = _activations(unit if gain is None else unit * gain, eps, rounding)
        trits, weight_scale = _weights(weight.float(), eps)
        rows = (grad / scale).to(grad.dtype).flatten(0, -2)
        grad_weight = (rows.mT @ q.to(grad.dtype).flatten(0, -2)).to(weight.dtype)
        grad_y = (grad @ trits.to(grad.dtype)).float() / weight_scale
        if gain is None:
            return grad_y.to(x.dtype), grad_weight, None, None, None, None
        grad_gain = (grad_y * unit).flatten(0, -2).sum(0)
        grad_unit = grad_y * gain
        mean = (grad_unit * unit).mean(-1, keepdim=True)
        grad_x = inverse * (grad_unit - unit * mean)
        return grad_x.to(x.dtype), grad_weight, grad_gain, None, None, None
