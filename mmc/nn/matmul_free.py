"""The MatMul-free language model for training, also where some layers keep their attention."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import torch
from torch import Tensor, nn

from mmc.frontends.models.bit_linear import RmsNorm
from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.frontends.models.hybrid_config import HybridConfig
from mmc.nn.attention import Attention, Rotation
from mmc.nn.bit_linear import INIT_STD, BitLinear
from mmc.nn.glu import TernaryGLU
from mmc.nn.language_model import LanguageModel
from mmc.nn.mlgru import MLGRU


class Layer(nn.Module):
    """Its mixer is an MLGRU or attention; attention is given the rotation, the MLGRU its bound."""

    def __init__(self, config: HybridConfig, has_attention: bool) -> None:
        super().__init__()
        own = config.recurrent
        width, eps, quantiser = own.hidden_size, own.rms_norm_eps, own.quantiser
        self.attn_norm = RmsNorm(width, eps)
        if has_attention:
            assert config.attention is not None
            self.attn = Attention(config.attention, lambda k, n, _: BitLinear(k, n, quantiser))
        else:
            self.attn = MLGRU(width, own.gate_order, eps, quantiser)
        self.mlp_norm = RmsNorm(width, eps)
        self.mlp = TernaryGLU(width, own.intermediate_size, quantiser)

    def forward(
        self, x: Tensor, bound: Tensor | None, cos: Tensor | None, sin: Tensor | None
    ) -> Tensor:
        if cos is None:
            x = x + self.attn(x, bound, self.attn_norm)
        else:
            x = x + self.attn(self.attn_norm(x), (cos, sin))
        return x + self.mlp(x, self.mlp_norm)


class Trunk(nn.Module):
    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        own = config.recurrent
        self.embeddings = nn.Embedding(own.vocab_size, own.hidden_size)
        nn.init.normal_(self.embeddings.weight, std=INIT_STD)
        if own.use_lower_bound:
            self.lower_bounds = nn.Parameter(torch.zeros(own.num_hidden_layers, own.hidden_size))
        self.layers = nn.ModuleList(Layer(config, kept) for kept in config.has_attention)
        self.norm = RmsNorm(own.hidden_size, own.rms_norm_eps)

    def bounds(self) -> list[Tensor | None]:
        """The forget gate's lower bound in each layer; there is none in the first."""
        if not hasattr(self, "lower_bounds"):
            return [None] * len(self.layers)
        share = self.lower_bounds.softmax(0)
        return [None, *(share.cumsum(0) - share[0])[1:].unbind()]


class MatMulFreeLM(LanguageModel):
    """Ids i64[B, T] -> logits [B, T, V]; the parameters are those of the checkpoint.

    Short convolutions and wider mixers (expand_ratio) are not trained here.
    """

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        own = config.recurrent
        if own.use_short_conv or own.expand_ratio != 1:
            raise ValueError("models with short convolutions or wider mixers are not trained here")
        self.config = config
        self.model = Trunk(config)
        if config.attention is not None:
            self.rotation = Rotation(config.attention)
        self.lm_head = BitLinear(own.hidden_size, own.vocab_size, own.quantiser)
        if own.tie_word_embeddings:
            self.lm_head.weight = self.model.embeddings.weight

    @staticmethod
    def of(config: HgrnBitConfig) -> MatMulFreeLM:
        """A model without attention."""
        return MatMulFreeLM(HybridConfig(config, None, (False,) * config.num_hidden_layers))

    def forward(self, ids: Tensor) -> Tensor:
        config, none = self.config, (None, None)
        angles = none if config.attention is None else self.rotation(ids.shape[1])
        x = self.model.embeddings(ids)
        rows = zip(self.model.layers, self.model.bounds(), config.has_attention, strict=True)
        for layer, bound, kept in rows:
            x = self.run_layer(layer, x, bound, *(angles if kept else none))
        return self.lm_head(self.model.norm(x))
