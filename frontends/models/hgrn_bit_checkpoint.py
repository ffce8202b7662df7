"""From a checkpoint of the MatMul-free LM to the IR."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from mmc.frontends.base import Imported
from mmc.frontends.checkpoint import Checkpoint
from mmc.frontends.models.causal_lm import import_causal_lm
from mmc.frontends.models.config_fields import ConfigFields
from mmc.frontends.models.hgrn_bit import HgrnBitForCausalLM
from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.frontends.models.stored_weights import matched, storage_of

_UNUSED = re.compile(r"model\.layers\.\d+\.attn\.q_conv1d\.weight")
"""The released code creates it beside i_conv1d and f_conv1d and never reads it."""


def load_hgrn_bit(checkpoint: Checkpoint) -> Imported:
    """The model of (ids, lengths, states); raises MmcError where tensors and config disagree."""
    source = str(checkpoint.path / "config.json")
    config = HgrnBitConfig.parse(checkpoint.config, source)
    with torch.device("meta"):
        module = HgrnBitForCausalLM(config, storage_of(checkpoint, source)).eval()
    tied = {"lm_head.weight": "model.embeddings.weight"} if config.tie_word_embeddings else {}
    weights = matched(module, checkpoint.store, str(checkpoint.path), tied=tied, unused=_UNUSED)
    imported = import_causal_lm(module, weights)
    fields = ConfigFields(checkpoint.config, source)
    positions = None
    if not fields.absent("max_position_embeddings"):
        positions = fields.whole("max_position_embeddings")
    return replace(
        imported, kind="causal_lm", vocab_size=config.vocab_size, max_positions=positions
    )
