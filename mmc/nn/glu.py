"""The gated linear unit for training."""

from __future__ import annotations

from torch import Tensor, nn

from mmc.frontends.models.bit_linear import Quantiser, RmsNorm
from mmc.nn.bit_linear import BitLinear


class TernaryGLU(nn.Module):
    """x [..., width] -> [..., width]; gate and up are one matrix, the gate its first half."""

    def __init__(self, width: int, inner: int, quantiser: Quantiser | None = None) -> None:
        super().__init__()
        self.gate_proj = BitLinear(width, 2 * inner, quantiser)
        self.down_proj = BitLinear(inner, width, quantiser)

    def forward(self, x: Tensor, norm: RmsNorm | None = None) -> Tensor:
        """Of norm(x), where there is a norm before it."""
        return self.down_proj(self.gate_proj(x, norm=norm), halves=True)
