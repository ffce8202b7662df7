"""From a checkpoint of a Transformer to the IR."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from mmc.errors import MmcError
from mmc.frontends.base import Imported, Stored
from mmc.frontends.checkpoint import Checkpoint
from mmc.frontends.models.causal_lm import import_causal_lm
from mmc.frontends.models.stored_weights import matched, storage_of
from mmc.frontends.models.transformer import FREQUENCIES, TransformerForCausalLM
from mmc.frontends.models.transformer_config import TransformerConfig
from mmc.ir.types import DType, TensorType

MOST_CONTEXT = 4096
"""Positions of a cache where nobody asks for more: memory goes with them."""

UNUSED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq|lm_head\.weight")
"""Older checkpoints hold the frequencies, some the head although it is the embedding."""


_SUB_NORMS = {".inner_attn_ln.": ".attn_sub_norm.", ".ffn_layernorm.": ".ffn_sub_norm."}
"""1bitLLM's names to those of transformers."""


def _renamed(stored: Stored) -> Stored:
    name = stored.name
    for theirs, ours in _SUB_NORMS.items():
        name = name.replace(theirs, ours)
    return replace(stored, name=name)


def load_transformer(checkpoint: Checkpoint) -> Imported:
    """The model of (ids, lengths, states); raises MmcError where tensors and config disagree."""
    source = checkpoint.source
    config = TransformerConfig.parse(checkpoint.config, source)
    context = chosen_context(checkpoint, config.max_positions, source)
    storage = storage_of(checkpoint, source)
    with torch.device("meta"):
        module = TransformerForCausalLM(config, context, storage).eval()
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_word_embeddings else {}
    frequencies = config.rope.frequencies(config.head_size)
    made = Stored(FREQUENCIES, TensorType(DType.F32, frequencies.shape), lambda: frequencies)
    store = {each.name: each for each in map(_renamed, checkpoint.store.values())}
    store[FREQUENCIES] = made
    weights = matched(module, store, str(checkpoint.path), tied=tied, unused=UNUSED)
    return replace(
        import_causal_lm(module, weights),
        kind="causal_lm",
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
        context=context,
    )


def chosen_context(checkpoint: Checkpoint, most: int, source: str) -> int:
    """The positions of a cache; raise MmcError for more than the model has."""
    context = checkpoint.context or min(most, MOST_CONTEXT)
    if context > most:
        raise MmcError(f"a context of {context} is more than the model's {most}", source)
    return context
