"""Transformers in the manner of Llama: attention with a cache, a gated MLP; dense or BitNet b1.58.

BitNet (arXiv:2402.17764, as transformers' models/bitnet has it) differs in its linear layers, its
activation and a norm before each output projection.  State goes in and comes out: how many
positions of each sequence are known, and each layer's keys and values; padding is on the right.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmc.frontends.models.bit_linear import BitLinear, Quantiser, RmsNorm, Storage
from mmc.frontends.models.causal_lm import BATCH, TIME, B, Given, T
from mmc.frontends.models.transformer_config import TransformerConfig
from mmc.ir.ops.attention import POSITION

FREQUENCIES = "model.rotary.frequencies"
"""A parameter that no checkpoint holds: `Rope.frequencies`."""

QUANTISER = Quantiser(norm_eps=None, rounding="half_even")


@dataclass(frozen=True)
class Build:
    """What every part is built from.

    storage: by parameter name; floats where it names none.  context: the positions of a cache.
    """

    config: TransformerConfig
    storage: Mapping[str, Storage]
    context: int

    def linear(self, path: str, inputs: int, outputs: int, bias: bool = False) -> nn.Module:
        if self.config.is_dense(path):
            return nn.Linear(inputs, outputs, bias)
        storage = self.storage.get(f"{path}.weight", "master")
        return BitLinear(inputs, outputs, QUANTISER, storage)

    def norm(self, width: int) -> RmsNorm:
        return RmsNorm(width, self.config.rms_norm_eps)


class Rotary(nn.Module):
    """Position i64[B] of the first of T tokens to the cosines and sines [B, T, head / 2]."""

    frequencies: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        frequencies = config.rope.frequencies(config.head_size)
        self.register_buffer("frequencies", torch.tensor(frequencies.tolist()))

    def forward(self, position: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        positions = position.unsqueeze(1) + torch.arange(tokens.shape[1], device=tokens.device)
        angles = positions.unsqueeze(2).to(torch.float32) * self.frequencies
        return angles.cos(), angles.sin()


class Attention(nn.Module):
    """Its states are the keys and the values so far, [B, groups, context, head size]."""

    def __init__(self, build: Build, path: str) -> None:
        super().__init__()
        self.config = config = build.config
        hidden, bias = config.hidden_size, config.attention_bias
        inner, shared = config.heads * config.head_size, config.groups * config.head_size
        self.q_proj = build.linear(f"{path}.q_proj", hidden, inner, bias)
        self.k_proj = build.linear(f"{path}.k_proj", hidden, shared, bias)
        self.v_proj = build.linear(f"{path}.v_proj", hidden, shared, bias)
        self.attn_sub_norm = build.norm(inner) if config.sub_norms else nn.Identity()
        self.o_proj = build.linear(f"{path}.o_proj", inner, hidden, config.output_bias)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        position: Tensor,
        rotation: tuple[Tensor, Tensor],
        state: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        keys, values = state
        mmc, width = torch.ops.mmc, self.config.head_size
        q, k, v = (p(x).unflatten(-1, (-1, width)) for p in (self.q_proj, self.k_proj, self.v_proj))
        keys = mmc.cache_append(keys, mmc.rotary(k, *rotation), position, lengths)
        values = mmc.cache_append(values, v, position, lengths)
        y = mmc.attention(mmc.rotary(q, *rotation), keys, values, position, width**-0.5)
        return self.o_proj(self.attn_sub_norm(y.flatten(2))), keys, values


class GatedMlp(nn.Module):
    def __init__(self, build: Build, path: str) -> None:
        super().__init__()
        config = build.config
        hidden, wide, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.activation = config.activation
        self.gate_proj = build.linear(f"{path}.gate_proj", hidden, wide, bias)
        self.up_proj = build.linear(f"{path}.up_proj", hidden, wide, bias)
        self.ffn_sub_norm = build.norm(wide) if config.sub_norms else nn.Identity()
        self.down_proj = build.linear(f"{path}.down_proj", wide, hidden, bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        gate = gate.relu().square() if self.activation == "relu2" else nn.functional.silu(gate)
        return self.down_proj(self.ffn_sub_norm(gate * self.up_proj(x)))


class Layer(nn.Module):
    def __init__(self, build: Build, path: str) -> None:
        super().__init__()
        hidden = build.config.hidden_size
        self.input_layernorm = build.norm(hidden)
        self.self_attn = Attention(build, f"{path}.self_attn")
        self.post_attention_layernorm = build.norm(hidden)
        self.mlp = GatedMlp(build, f"{path}.mlp")

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        position: Tensor,
        cos: Tensor,
        sin: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        normed = self.input_layernorm(x)
        y, keys, values = self.self_attn(normed, lengths, position, (cos, sin), state)
        x = x + y
        return x + self.mlp(self.post_attention_layernorm(x)), keys, values


class Trunk(nn.Module):
    """Ids i64[B, T] to the last layer's normalised output [B, T, hidden]."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        config = build.config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = Rotary(config)
        paths = (f"model.layers.{n}" for n in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(Layer(build, path) for path in paths)
        self.norm = build.norm(config.hidden_size)

    def forward(
        self, ids: Tensor, lengths: Tensor, position: Tensor, caches: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        cos, sin = self.rotary(position, ids)
        x, made = self.embed_tokens(ids), []
        for n, layer in enumerate(self.layers):
            state = caches[2 * n : 2 * n + 2]
            x, *state = layer(x, lengths, position, cos, sin, *state)
            made += state
        return self.norm(x), made


class TransformerForCausalLM(nn.Module):
    """(ids i64[B, T], lengths i64[B], *states) -> (logits f32[B, T, V], *new states).

    Positions from lengths[b] on are padding: they change no state.  The states: `state_shapes`.
    """

    def __init__(
        self,
        config: TransformerConfig,
        context: int,
        storage: Mapping[str, Storage] | None = None,
    ) -> None:
        super().__init__()
        build = Build(config, storage or {}, context)
        self.config, self.context = config, context
        self.model = Trunk(build)
        self.lm_head = build.linear("lm_head", config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        position, *caches = states
        x, made = self.model(ids, lengths, position, caches)
        return self.lm_head(x), position + lengths, *made

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    def given(self, layer: int) -> list[Given | None]:
        """The lengths, the position, cosines and sines."""
        counts = Given(torch.ones(BATCH, dtype=torch.int64), {0: B})
        angles = Given(torch.zeros(BATCH, TIME, self.config.head_size // 2), {0: B, 1: T})
        return [counts, counts, angles, angles]

    @property
    def state_types(self) -> dict[str, torch.dtype]:
        return {POSITION: torch.int64}

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape, without the batch."""
        cache = (self.config.groups, self.context, self.config.head_size)
        shapes: dict[str, tuple[int, ...]] = {POSITION: ()}
        for n in range(self.config.num_hidden_layers):
            path = f"model.layers.{n}.self_attn"
            shapes |= {f"{path}.keys": cache, f"{path}.values": cache}
        return shapes
