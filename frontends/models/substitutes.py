"""Traceable equivalents of modules whose forward pass is a kernel that torch cannot look into.

Each is written from the formula of the original and keeps its parameters under their names.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mmc.frontends.models.bit_linear import ROUNDINGS, Quantiser, unpack


class _Equivalent(nn.Module):
    """Takes over parameters, buffers and modules of the original."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self._parameters = original._parameters
        self._buffers = original._buffers
        self._modules = original._modules


class FusedBitLinear(_Equivalent):
    """mmfreelm/ops/fusedbitnet.py, fla/modules/fused_bitlinear.py: one kernel norms and quantises.

    It is called without an eps, so that its default of 1e-6 counts and not the norm's 1e-8, and
    rounds like C's `round`.
    """

    def __init__(self, original: Any) -> None:
        super().__init__(original)
        self.quantiser = Quantiser(rounding="half_away")

    def forward(self, x: Tensor) -> Tensor:
        norm: Any = self._modules["norm"]
        x = F.rms_norm(x, (x.shape[-1],), norm.weight, 1e-6)
        x = x if getattr(norm, "bias", None) is None else x + norm.bias
        bias = self._parameters.get("bias")
        weight = self.quantiser.weights(self.get_parameter("weight"))
        return F.linear(self.quantiser.activations(x), weight, bias)


class RmsNorm(_Equivalent):
    """mmfreelm/modules/layernorm.py, fla/modules/layernorm.py: RMSNorm, x + residual before it."""

    def __init__(self, original: Any) -> None:
        super().__init__(original)
        self.eps = float(original.eps)

    def normalised(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x, (x.shape[-1],), self._parameters.get("weight"), self.eps)
        bias = self._parameters.get("bias")
        return y if bias is None else y + bias

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        x = x if residual is None else x + residual
        return (self.normalised(x), x) if prenorm else self.normalised(x)


class GatedRmsNorm(RmsNorm):
    """FusedRMSNormSwishGate and FusedRMSNormGated: the norm of x times SiLU of the gate.

    The latter may have a sigmoid instead.
    """

    def __init__(self, original: Any) -> None:
        super().__init__(original)
        squashed = getattr(original, "activation", "swish") == "sigmoid"
        self.gate = F.sigmoid if squashed else F.silu

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, gate: Tensor, residual: Tensor | None = None, prenorm: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        x = x if residual is None else x + residual
        y = self.normalised(x) * self.gate(gate)
        return (y, x) if prenorm else y


class HalfUpBitLinear(_Equivalent):
    """onebitllms/layers/bitnet.py: its Triton kernels round by floor(x + 0.5)."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.get_parameter("weight")
        scale = 1 / w.abs().mean().clamp(min=1e-5)
        w = ROUNDINGS["half_up"](w * scale).clamp(-1, 1) / scale
        x = Quantiser(rounding="half_up").activations(x)
        return F.linear(x, w, self._parameters.get("bias"))


class PackedBitLinear(_Equivalent):
    """transformers/integrations/bitnet.py, BitLinear: four rows to a byte, scales behind the sum.

    What keeps such a module from being traced is a number read from a tensor (`.item()`).
    """

    def forward(self, x: Tensor) -> Tensor:
        norm = self._modules.get("rms_norm")
        x = x if norm is None else norm(x)
        step = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        q = (x * step).round().clamp(-128, 127)
        y = F.linear(q, unpack(self.get_buffer("weight")).to(q.dtype))
        y = y / (self.get_buffer("weight_scale") * step)
        bias = self._buffers.get("bias")
        return y if bias is None else y + bias
