"""The MLGRU for training: every position at once (arXiv:2406.02528, section 3.3.1)."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

from torch import Tensor, nn

from mmc.frontends.models.bit_linear import Quantiser, RmsNorm
from mmc.frontends.models.hgrn_bit_config import GATE_ORDERS
from mmc.nn.bit_linear import BitLinear
from mmc.nn.gated_output import gated_output
from mmc.nn.recurrence import gated_scan


class MLGRU(nn.Module):
    """x [B, T, width] -> [B, T, width]: `Mixer` of frontends/models/hgrn_bit.py, from no state.

    gate_order: see `GATE_ORDERS`.  norm_eps: of the gate's norm.
    """

    def __init__(
        self,
        width: int,
        gate_order: str = "released",
        norm_eps: float = 1e-6,
        quantiser: Quantiser | None = None,
    ) -> None:
        super().__init__()
        if gate_order not in GATE_ORDERS:
            raise ValueError(f"gate_order {gate_order!r} is none of {', '.join(GATE_ORDERS)}")
        self.gate_order = gate_order
        self.i_proj = BitLinear(width, width, quantiser)
        self.f_proj = BitLinear(width, width, quantiser)
        self.g_proj = BitLinear(width, width, quantiser)
        if gate_order != "paper":
            self.g_norm = RmsNorm(width, norm_eps)
        self.o_proj = BitLinear(width, width, quantiser)

    def forward(
        self, x: Tensor, lower_bound: Tensor | None = None, norm: RmsNorm | None = None
    ) -> Tensor:
        """Of norm(x), where there is a norm before it."""
        f, i, g = (proj(x, norm=norm) for proj in (self.f_proj, self.i_proj, self.g_proj))
        output = self.on_gpu if x.is_cuda else self.plain
        return output(f, i, lower_bound, g)

    def plain(self, f: Tensor, i: Tensor, lower_bound: Tensor | None, g: Tensor) -> Tensor:
        """What becomes of the projections."""
        h = gated_scan(f, i, lower_bound)
        match self.gate_order:
            case "released":
                return self.o_proj(g, h, self.g_norm)
            case "hgrn":
                return self.o_proj(h, g, self.g_norm)
            case _:
                return self.o_proj(h, g, activation="sigmoid")

    def on_gpu(self, f: Tensor, i: Tensor, lower_bound: Tensor | None, g: Tensor) -> Tensor:
        """The same, and no h is kept for the backward pass."""
        norm = None if self.gate_order == "paper" else self.g_norm
        return gated_output(self.o_proj, f, i, lower_bound, g, norm, self.gate_order == "released")
