"""Configurations of MatMul-free models that keep attention in some layers."""

from __future__ import annotations

import pytest

from mmc.errors import MmcError
from mmc.frontends.models.hybrid_config import HybridConfig

VALUES = {
    "vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 20,
    "num_attention_heads": 4, "layer_types": ["full_attention", "linear_recurrence"],
}  # fmt: skip


def test_layers_are_told_apart() -> None:
    assert HybridConfig.parse(VALUES).has_attention == (True, False)


@pytest.mark.parametrize("named", [None, [], ["full_attention"], ["full_attention", "other"], 3])
def test_each_layer_needs_a_known_name(named: object) -> None:
    with pytest.raises(MmcError, match="'layer_types' is not a list with a known name for each"):
        HybridConfig.parse(VALUES | {"layer_types": named})
