"""BitLinear: a normalised, quantised input times a ternary matrix (arXiv:2406.02528, section 3.2).

Everything is ordinary arithmetic: the compiler's passes must recognise it as in anybody's module.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

import mmc.frontends.models.operators  # noqa: F401  # pyright: ignore[reportUnusedImport]

Storage = Literal["master", "quantised", "ternary", "packed_multiply", "packed_divide"]
"""How a checkpoint holds a matrix.

master: floats, made ternary on the fly.  quantised: floats that are a scale times -1, 0 or 1.
ternary: int8 in {-1, 0, 1} times weight_scale.
packed_*: uint8 [N/4, K], four rows of blocks to a byte as Hugging Face packs them (rows r, N/4 + r,
N/2 + r, 3N/4 + r from the lowest bits up, each plus one), times or divided by weight_scale.
"""

_FLOATS = ("master", "quantised")

ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "half_away": torch.ops.mmc.round_half_away.default,
    "half_even": torch.round,
    "half_up": lambda x: torch.floor(x + 0.5),
}


@dataclass(frozen=True)
class Quantiser:
    """What real checkpoints disagree on.

    norm_eps: of BitLinear's own RMSNorm; None where it has none.  eps: the least maximum, and the
    least mean.  rounding: of activations; weights are rounded half to even.
    """

    norm_eps: float | None = 1e-6
    eps: float = 1e-5
    rounding: str = "half_away"

    def activations(self, x: Tensor) -> Tensor:
        """Int8 with one scale a token, back in floats."""
        scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=self.eps)
        return ROUNDINGS[self.rounding](x * scale).clamp(-128, 127) / scale

    def weights(self, w: Tensor) -> Tensor:
        """-1, 0 or 1 with one scale for the matrix, back in floats."""
        scale = 1 / w.abs().mean().clamp(min=self.eps)
        return (w * scale).round().clamp(-1, 1) / scale


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class BitLinear(nn.Module):
    """x [..., inputs] -> [..., outputs]."""

    weight: Tensor
    weight_scale: Tensor

    def __init__(
        self, inputs: int, outputs: int, quantiser: Quantiser, storage: Storage = "master"
    ) -> None:
        super().__init__()
        self.quantiser = quantiser
        self.storage: Storage = storage
        eps = quantiser.norm_eps
        self.norm = nn.Identity() if eps is None else RmsNorm(inputs, eps)
        if storage in _FLOATS:
            self.weight = nn.Parameter(torch.empty(outputs, inputs))
        elif storage == "ternary":
            self.register_buffer("weight", torch.empty(outputs, inputs, dtype=torch.int8))
        else:
            self.register_buffer("weight", torch.empty(outputs // 4, inputs, dtype=torch.uint8))
        if storage not in _FLOATS:
            self.register_buffer("weight_scale", torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantiser.activations(self.norm(x))
        return nn.functional.linear(x, self.matrix())

    def extra_repr(self) -> str:
        """What two layers must share besides their parameters to be traced once."""
        return f"{self.storage}, {self.quantiser}"

    def matrix(self) -> Tensor:
        """The matrix with three values that is multiplied by."""
        match self.storage:
            case "master":
                return self.quantiser.weights(self.weight)
            case "quantised":
                return self.weight
            case "ternary":
                return self.weight.to(torch.float32) * self.weight_scale
            case "packed_multiply":
                return unpack(self.weight) * self.weight_scale
            case "packed_divide":
                return unpack(self.weight) / self.weight_scale


def unpack(packed: Tensor) -> Tensor:
    """Uint8 [N/4, K] -> -1.0, 0.0 or 1.0 [N, K]."""
    codes = [(packed >> shift) & 3 for shift in (0, 2, 4, 6)]
    return torch.cat(codes).to(torch.float32) - 1
