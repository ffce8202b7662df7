"""Causal attention for training: every position at once, no cache."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmc.frontends.models.bit_linear import RmsNorm
from mmc.frontends.models.operators import rotary
from mmc.frontends.models.transformer_config import TransformerConfig

MakeLinear = Callable[[int, int, bool], nn.Module]
"""From inputs, outputs and whether there is a bias to a linear layer: dense or ternary."""


class Attention(nn.Module):
    """x [B, T, hidden] -> [B, T, hidden]: `frontends/models/transformer.py`, `Attention`."""

    def __init__(self, config: TransformerConfig, linear: MakeLinear) -> None:
        super().__init__()
        hidden, self.head_size = config.hidden_size, config.head_size
        bias = config.attention_bias
        inner, shared = config.heads * self.head_size, config.groups * self.head_size
        self.q_proj = linear(hidden, inner, bias)
        self.k_proj = linear(hidden, shared, bias)
        self.v_proj = linear(hidden, shared, bias)
        norm = RmsNorm(inner, config.rms_norm_eps) if config.sub_norms else nn.Identity()
        self.attn_sub_norm = norm
        self.o_proj = linear(inner, hidden, config.output_bias)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (project(x).unflatten(-1, (-1, self.head_size)) for project in projections)
        q, k = rotary(q, *rotation).to(v.dtype), rotary(k, *rotation).to(v.dtype)
        y = nn.functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
        )
        return self.o_proj(self.attn_sub_norm(y.transpose(1, 2).flatten(2).float()))


class Rotation(nn.Module):
    """Cosines and sines f32[1, T, head / 2] of the positions from 0 on."""

    frequencies: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        frequencies = config.rope.frequencies(config.head_size)
        self.register_buffer("frequencies", torch.tensor(frequencies.tolist()), persistent=False)

    def forward(self, tokens: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(tokens, device=self.frequencies.device, dtype=torch.float32)
        angles = positions[None, :, None] * self.frequencies
        return angles.cos(), angles.sin()
