"""From a checkpoint of a MatMul-free model that keeps some attention to the IR."""

from __future__ import annotations

from dataclasses import replace

import torch

from mmc.errors import MmcError
from mmc.frontends.base import Imported, Stored
from mmc.frontends.checkpoint import Checkpoint
from mmc.frontends.models.causal_lm import import_causal_lm
from mmc.frontends.models.hybrid import HybridForCausalLM
from mmc.frontends.models.hybrid_config import HybridConfig
from mmc.frontends.models.stored_weights import matched, storage_of
from mmc.frontends.models.transformer import FREQUENCIES
from mmc.frontends.models.transformer_checkpoint import chosen_context
from mmc.ir.types import DType, TensorType


def load_hybrid(checkpoint: Checkpoint) -> Imported:
    """The model of (ids, lengths, states); raises MmcError where tensors and config disagree."""
    source = checkpoint.source
    config = HybridConfig.parse(checkpoint.config, source)
    if config.recurrent.use_short_conv:
        raise MmcError("'use_short_conv' does not go with 'layer_types'", source)
    attention = config.attention
    assert attention is not None
    context = chosen_context(checkpoint, attention.max_positions, source)
    with torch.device("meta"):
        module = HybridForCausalLM(config, context, storage_of(checkpoint, source)).eval()
    tied = attention.tie_word_embeddings
    shared = {"lm_head.weight": "model.embeddings.weight"} if tied else {}
    frequencies = attention.rope.frequencies(attention.head_size)
    made = Stored(FREQUENCIES, TensorType(DType.F32, frequencies.shape), lambda: frequencies)
    store = {**checkpoint.store, FREQUENCIES: made}
    return replace(
        import_causal_lm(module, matched(module, store, str(checkpoint.path), tied=shared)),
        kind="causal_lm",
        vocab_size=config.recurrent.vocab_size,
        max_positions=attention.max_positions,
        context=context,
    )
