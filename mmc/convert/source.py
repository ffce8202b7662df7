"""What is converted: a Transformer in the manner of Llama in a Hugging Face directory."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmc.errors import MmcError
from mmc.frontends.checkpoint import Store, read_json, read_store
from mmc.frontends.models.config_fields import ConfigFields
from mmc.frontends.models.stored_weights import matched
from mmc.frontends.models.transformer_checkpoint import UNUSED
from mmc.frontends.models.transformer_config import TransformerConfig
from mmc.nn import Transformer

FAMILIES = ("llama", "mistral")
"""Values of model_type whose layers are those of Llama."""

_VARIANTS = {
    r".*\.self_attn\.[qkvo]_proj\.bias": "attention with biases",
    r".*\.mlp\.\w+\.bias": "an MLP with biases",
    r".*\.self_attn\.[qk]_norm\.weight": "attention with norms of queries and keys",
    r".*\.self_attn\.sinks": "attention with sinks",
    r".*\.(block_sparse_moe|mlp\.experts|mlp\.gate)\..*": "a mixture of experts",
    r".*\.self_attn\.kv_a_proj.*": "multi-head latent attention",
}
"""Tensors that tell a form of layer which is not converted."""


@dataclass(frozen=True)
class Source:
    """A directory that has been looked through; `values` is its config.json."""

    path: Path
    values: Mapping[str, object]
    config: TransformerConfig
    store: Store

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    def teacher(self) -> Transformer:
        """The model as it is, in float32."""
        module = Transformer(self.config)
        shared = {"lm_head.weight": "model.embed_tokens.weight"}
        tied = shared if self.config.tie_word_embeddings else {}
        stored = matched(module, self.store, str(self.path), tied=tied, unused=UNUSED)
        state = module.state_dict()
        for name, tensor in stored.items():
            state[name].copy_(torch.from_numpy(tensor.load().astype(np.float32)))
        return module.eval().requires_grad_(False)


def read_source(path: Path) -> Source:
    """Raises MmcError where the folder is not whole, or its model of a form not converted."""
    if not path.is_dir():
        raise MmcError("there is no such folder", str(path))
    where = str(path / "config.json")
    values = read_json(path / "config.json")
    family = values.get("model_type")
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise MmcError(f"model_type {family!r} is not converted", where, f"known: {known}")
    if values.get("quantization_config") is not None:
        raise MmcError("'quantization_config': the model is quantised already", where)
    if values.get("sliding_window") is not None:
        raise MmcError("attention in a sliding window is not converted", where, "'sliding_window'")
    config = TransformerConfig.parse(values, where)
    if config.attention_bias or config.mlp_bias:
        key = "attention_bias" if config.attention_bias else "mlp_bias"
        raise MmcError(f"{key!r}: layers with biases are not converted", where)
    ConfigFields(values, where).choice("hidden_act", ("silu", "swish"), "silu")
    store = read_store(path)
    _refuse_variants(store, path)
    return Source(path, values, config, store)


def _refuse_variants(store: Store, path: Path) -> None:
    for name in sorted(store):
        for pattern, variant in _VARIANTS.items():
            if re.fullmatch(pattern, name):
                raise MmcError(f"{variant} is not converted", str(path), f"tensor {name!r}")
