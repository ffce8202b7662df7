"""From a checkpoint of Mamba or RWKV-4 to the IR."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from mmc.frontends.base import Imported
from mmc.frontends.checkpoint import Checkpoint
from mmc.frontends.models.causal_lm import import_causal_lm
from mmc.frontends.models.mamba import MambaConfig, MambaForCausalLM
from mmc.frontends.models.rwkv import RwkvConfig, RwkvForCausalLM
from mmc.frontends.models.stored_weights import matched


def load_mamba(checkpoint: Checkpoint) -> Imported:
    """The model of (ids, lengths, states); raises MmcError where tensors and config disagree."""
    config = MambaConfig.parse(checkpoint.config, checkpoint.source)
    with torch.device("meta"):
        module = MambaForCausalLM(config).eval()
    return _imported(module, checkpoint, "lm_head.weight", "backbone.embeddings.weight")


def load_rwkv(checkpoint: Checkpoint) -> Imported:
    """The model of (ids, lengths, states); raises MmcError where tensors and config disagree."""
    config = RwkvConfig.parse(checkpoint.config, checkpoint.source)
    with torch.device("meta"):
        module = RwkvForCausalLM(config).eval()
    return _imported(module, checkpoint, "head.weight", "rwkv.embeddings.weight")


def _imported(
    module: MambaForCausalLM | RwkvForCausalLM, checkpoint: Checkpoint, head: str, embedding: str
) -> Imported:
    """head, embedding: names of tensors; some checkpoints hold a head although it is tied."""
    is_tied = module.config.tie_word_embeddings
    tied = {head: embedding} if is_tied else {}
    unused = re.compile(re.escape(head)) if is_tied else None
    weights = matched(module, checkpoint.store, str(checkpoint.path), tied=tied, unused=unused)
    imported = import_causal_lm(module, weights)
    positive = frozenset(name for name in module.state_shapes if name.endswith(".den"))
    size = module.config.vocab_size
    return replace(imported, kind="causal_lm", vocab_size=size, positive=positive)
