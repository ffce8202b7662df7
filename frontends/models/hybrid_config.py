"""The configuration of a MatMul-free model that keeps attention in some layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from mmc.errors import MmcError
from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.frontends.models.transformer_config import TransformerConfig

MODEL_TYPE = "mmc_hybrid"
LAYER_TYPES = ("linear_recurrence", "full_attention")


@dataclass(frozen=True)
class HybridConfig:
    """The keys of `hgrn_bit`, those of Llama's attention, and `layer_types`, one a layer.

    Linear layers are all those of `hgrn_bit`.  attention: None where no layer has it.
    """

    recurrent: HgrnBitConfig
    attention: TransformerConfig | None
    has_attention: tuple[bool, ...]

    @staticmethod
    def parse(values: Mapping[str, object], source: str = "config.json") -> HybridConfig:
        """Raises MmcError naming the key that is missing, of the wrong type, or impossible."""
        recurrent = HgrnBitConfig.parse(values, source)
        named = values.get("layer_types")
        listed = cast(list[object], named) if isinstance(named, list) else []
        if len(listed) != recurrent.num_hidden_layers or set(listed) - set(LAYER_TYPES):
            raise MmcError(
                "'layer_types' is not a list with a known name for each layer",
                source,
                f"{recurrent.num_hidden_layers} times one of {', '.join(LAYER_TYPES)}",
            )
        has_attention = tuple(name == "full_attention" for name in listed)
        attention = TransformerConfig.parse(values, source)
        return HybridConfig(recurrent, attention, has_attention)
