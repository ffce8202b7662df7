"""What is converted: a Transformer in the manner of Llama, a Hugging Face directory or GGUF."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmc.errors import MmcError
from mmc.frontends.checkpoint import Checkpoint, open_checkpoint
from mmc.frontends.models.config_fields import ConfigFields
from mmc.frontends.models.stored_weights import matched
from mmc.frontends.models.transformer_checkpoint import UNUSED
from mmc.frontends.models.transformer_config import TransformerConfig
from mmc.nn import Transformer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FAMILIES = ("llama", "mistral", "qwen2")
"""Values of model_type whose layers are those of Llama, Qwen2's with biases."""

_VARIANTS = {
    r".*\.self_attn\.[qk]_norm\.weight": "attention with norms of queries and keys",
    r".*\.self_attn\.sinks": "attention with sinks",
    r".*\.(block_sparse_moe|mlp\.experts|mlp\.gate)\..*": "a mixture of experts",
    r".*\.self_attn\.kv_a_proj.*": "multi-head latent attention",
}
"""Tensors that tell a form of layer which is not converted."""


@dataclass(frozen=True)
class Source:
    """A checkpoint that has been looked through."""

    checkpoint: Checkpoint
    config: TransformerConfig

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def values(self) -> Mapping[str, object]:
        """Its config.json."""
        return self.checkpoint.config

    @property
    def has_biases(self) -> bool:
        return self.config.attention_bias or self.config.mlp_bias

    def tokenizer(self) -> Tokenizer:
        """Raises MmcError where there is none, or one that is not the model's."""
        from tokenizers import Tokenizer

        path, vocabulary = str(self.path), self.config.vocab_size
        if self.checkpoint.tokenizer is None:
            raise MmcError("a tokenizer is missing: the text cannot be read as tokens", path)
        content = self.checkpoint.tokenizer()
        try:
            loaded = Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises nothing more particular
            raise MmcError(f"its tokenizer cannot be read: {error}", path) from None
        if (size := loaded.get_vocab_size()) > vocabulary:
            found = f"its tokenizer knows {size} tokens, the model {vocabulary}"
            raise MmcError(f"{found}: they do not belong together", path)
        return loaded

    def teacher(self) -> Transformer:
        """The model as it is, in float32."""
        module = Transformer(self.config)
        shared = {"lm_head.weight": "model.embed_tokens.weight"}
        tied = shared if self.config.tie_word_embeddings else {}
        store = self.checkpoint.store
        stored = matched(module, store, str(self.path), tied=tied, unused=UNUSED)
        state = module.state_dict()
        for name, tensor in stored.items():
            state[name].copy_(torch.from_numpy(tensor.load().astype(np.float32)))
        return module.eval().requires_grad_(False)


def read_source(path: Path) -> Source:
    """Raises MmcError where the checkpoint is not whole, or its model of a form not converted."""
    checkpoint = open_checkpoint(path)
    values, where = checkpoint.config, checkpoint.source
    family = values.get("model_type")
    if values.get("quantization_config") is not None:
        raise MmcError("'quantization_config': the model is quantised already", where)
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise MmcError(f"model_type {family!r} is not converted", where, f"known: {known}")
    _refuse_windows(values, where)
    config = TransformerConfig.parse(values, where)
    ConfigFields(values, where).choice("hidden_act", ("silu", "swish"), "silu")
    _refuse_variants(checkpoint)
    return Source(checkpoint, config)


def _refuse_windows(values: Mapping[str, object], where: str) -> None:
    """Qwen2's config.json names a window also where it is not used."""
    layers: Any = values.get("layer_types") or ()
    used = values.get("sliding_window") is not None and values.get("use_sliding_window", True)
    if used or "sliding_attention" in layers:
        raise MmcError("attention in a sliding window is not converted", where, "'sliding_window'")


def _refuse_variants(checkpoint: Checkpoint) -> None:
    for name in sorted(checkpoint.store):
        for pattern, variant in _VARIANTS.items():
            if re.fullmatch(pattern, name):
                raise MmcError(
                    f"{variant} is not converted", str(checkpoint.path), f"tensor {name!r}"
                )
