"""A MatMul-free model that keeps attention in some layers, to be traced.

Layers are those of hgrn_bit.py; where `layer_types` says so, the mixer is the attention of
transformer.py with the linear layers of hgrn_bit.py.  The states: how many positions are known,
then each layer's, in order.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmc.frontends.models import hgrn_bit, transformer
from mmc.frontends.models.bit_linear import BitLinear, Quantiser, RmsNorm, Storage
from mmc.frontends.models.causal_lm import BATCH, TIME, B, Given, T
from mmc.frontends.models.hybrid_config import HybridConfig
from mmc.frontends.models.transformer_config import TransformerConfig
from mmc.ir.ops.attention import POSITION


@dataclass(frozen=True)
class AttentionBuild(transformer.Build):
    """What attention is built from: BitLinear with a norm of its own."""

    quantiser: Quantiser

    def linear(self, path: str, inputs: int, outputs: int, bias: bool = False) -> nn.Module:
        storage = self.storage.get(f"{path}.weight", "master")
        return BitLinear(inputs, outputs, self.quantiser, storage)


class AttentionLayer(nn.Module):
    def __init__(self, build: hgrn_bit.Build, attention: AttentionBuild, path: str) -> None:
        super().__init__()
        width, eps = build.config.hidden_size, build.config.rms_norm_eps
        self.attn_norm = RmsNorm(width, eps)
        self.attn = transformer.Attention(attention, f"{path}.attn")
        self.mlp_norm = RmsNorm(width, eps)
        self.mlp = hgrn_bit.Glu(build, f"{path}.mlp")

    def forward(
        self, x: Tensor, lengths: Tensor, position: Tensor, cos: Tensor, sin: Tensor, *state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, keys, values = self.attn(self.attn_norm(x), lengths, position, (cos, sin), state)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), keys, values


class Trunk(hgrn_bit.Trunk):
    """Ids i64[B, T] to the last layer's normalised output [B, T, hidden]."""

    def __init__(self, config: HybridConfig, build: hgrn_bit.Build, attention: AttentionBuild):
        super().__init__(build)
        self.has_attention = config.has_attention
        self.rotary = transformer.Rotary(attention.config)
        for n, kept in enumerate(config.has_attention):
            if kept:
                self.layers[n] = AttentionLayer(build, attention, f"model.layers.{n}")

    def mix(
        self, ids: Tensor, lengths: Tensor, position: Tensor, states: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        cos, sin = self.rotary(position, ids)
        x, made = self.embeddings(ids), []
        rows = zip(self.layers, self.has_attention, self.bounds(), strict=True)
        for layer, kept, bound in rows:
            given = (position, cos, sin) if kept else (bound,)
            count = 2 if kept else 1
            state, states = states[:count], states[count:]
            x, *state = layer(x, lengths, *given, *state)
            made += state
        return self.norm(x), made


class HybridForCausalLM(nn.Module):
    """(ids i64[B, T], lengths i64[B], *states) -> (logits f32[B, T, V], *new states).

    Positions from lengths[b] on are padding: they change no state.  The states: `state_shapes`.
    """

    def __init__(
        self, config: HybridConfig, context: int, storage: Mapping[str, Storage] | None = None
    ) -> None:
        super().__init__()
        own = config.recurrent
        build = hgrn_bit.Build(own, storage or {})
        self.config, self.context, self.own = config, context, own
        attention = AttentionBuild(self.attention, storage or {}, context, own.quantiser)
        self.model = Trunk(config, build, attention)
        self.lm_head = build.linear("lm_head", own.hidden_size, own.vocab_size)
        if own.tie_word_embeddings:
            self.lm_head.weight = self.model.embeddings.weight

    def forward(self, ids: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        position, *rest = states
        x, made = self.model.mix(ids, lengths, position, rest)
        return self.lm_head(x), position + lengths, *made

    @property
    def attention(self) -> TransformerConfig:
        assert self.config.attention is not None
        return self.config.attention

    @property
    def hidden_size(self) -> int:
        return self.own.hidden_size

    def given(self, layer: int) -> list[Given | None]:
        """Attention: the lengths, the position, cosines and sines; else lengths and lower bound."""
        counts = Given(torch.ones(BATCH, dtype=torch.int64), {0: B})
        if self.config.has_attention[layer]:
            angles = Given(torch.zeros(BATCH, TIME, self.attention.head_size // 2), {0: B, 1: T})
            return [counts, counts, angles, angles]
        bounded = self.own.use_lower_bound and layer > 0
        return [counts, Given(torch.zeros(self.hidden_size)) if bounded else None]

    @property
    def state_types(self) -> dict[str, torch.dtype]:
        return {POSITION: torch.int64}

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape, without the batch."""
        cache = (self.attention.groups, self.context, self.attention.head_size)
        shapes: dict[str, tuple[int, ...]] = {POSITION: ()}
        for n, kept in enumerate(self.config.has_attention):
            path = f"model.layers.{n}.attn"
            if kept:
                shapes |= {f"{path}.keys": cache, f"{path}.values": cache}
            else:
                shapes[f"{path}.h"] = (self.own.inner_size,)
        return shapes
