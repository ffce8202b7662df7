"""Transformers in the manner of Llama for training: dense, or with BitNet's ternary layers."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import torch
from torch import Tensor, nn

from mmc.frontends.models.bit_linear import RmsNorm
from mmc.frontends.models.transformer import QUANTISER
from mmc.frontends.models.transformer_config import TransformerConfig
from mmc.nn.attention import Attention, Rotation
from mmc.nn.bit_linear import INIT_STD, BitLinear
from mmc.nn.language_model import LanguageModel


class GatedMlp(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden, wide, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.activation = config.activation
        self.gate_proj = make_linear(config, hidden, wide, bias)
        self.up_proj = make_linear(config, hidden, wide, bias)
        norm = RmsNorm(wide, config.rms_norm_eps) if config.sub_norms else nn.Identity()
        self.ffn_sub_norm = norm
        self.down_proj = make_linear(config, wide, hidden, bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        gate = gate.relu().square() if self.activation == "relu2" else nn.functional.silu(gate)
        return self.down_proj(self.ffn_sub_norm((gate * self.up_proj(x)).float()))


class Layer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, lambda k, n, bias: make_linear(config, k, n, bias))
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMlp(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), (cos, sin))
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=INIT_STD)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(LanguageModel):
    """Ids i64[B, T] -> logits [B, T, V]; the parameters are those of the checkpoint.

    All layers are of one kind, dense or quantised.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.rotation = Rotation(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        nn.init.normal_(self.lm_head.weight, std=INIT_STD)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        angles = self.rotation(ids.shape[1])
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = self.run_layer(layer, x, *angles)
        return self.lm_head(self.model.norm(x))


def make_linear(config: TransformerConfig, inputs: int, outputs: int, bias: bool) -> nn.Module:
    """A linear layer of the model, dense or ternary."""
    if config.quantised:
        return BitLinear(inputs, outputs, QUANTISER, bias)
    made = nn.Linear(inputs, outputs, bias)
    torch.nn.init.normal_(made.weight, std=INIT_STD)
    return made
