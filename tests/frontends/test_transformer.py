"""Transformers: the graph against the module, and configurations that cannot be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from mmc.errors import MmcError
from mmc.frontends.models.transformer import TransformerForCausalLM
from mmc.frontends.models.transformer_config import Rope, TransformerConfig
from mmc.ir.ops.attention import POSITION
from tests.frontends.language_models import graph_is_the_module

TINY: Mapping[str, Any] = {
    "model_type": "bitnet",
    "vocab_size": 17,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "quantization_config": {"quant_method": "bitnet"},
}
LLAMA: Mapping[str, Any] = {**TINY, "model_type": "llama", "quantization_config": None}
ONE_DENSE = {"quant_method": "bitnet", "modules_to_not_convert": ["model.layers.1.mlp.up_proj"]}
"""Of two layers with the same parameters."""


@pytest.mark.parametrize(
    "changes",
    [
        TINY,
        LLAMA,
        {**LLAMA, "tie_word_embeddings": True},
        {**LLAMA, "quantization_config": ONE_DENSE},
    ],
)
def test_graph_is_the_module(changes: Mapping[str, Any]) -> None:
    """With a past, and prompts of different lengths."""
    torch.manual_seed(3)
    module = TransformerForCausalLM(TransformerConfig.parse(changes), 12).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else noise)
    states = {name: torch.randn(2, *shape) for name, shape in module.state_shapes.items()}
    states[POSITION] = torch.tensor([0, 6])
    ids, lengths = torch.randint(0, 17, (2, 5)), torch.tensor([5, 3])
    graph_is_the_module(module, ids, lengths, states)


QWEN2_WINDOW: Mapping[str, Any] = {
    "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0,
    "quantization_config": None,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"use_sliding_window": False}, {"max_window_layers": 28}, {"sliding_window": 4096}],
)
def test_a_window_that_no_layer_has_is_none(changes: Mapping[str, Any]) -> None:
    TransformerConfig.parse({**TINY, **QWEN2_WINDOW, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 3}, "'num_attention_heads' is 4, not a multiple"),
        ({"hidden_size": 10**400}, "'hidden_size' is more than 2147483647"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000, more than 10000"),
        ({"rms_norm_eps": 10**400}, "'rms_norm_eps' is inf, not positive and finite"),
        ({"head_dim": 5}, "heads have 5 columns: RoPE turns pairs"),
        ({"hidden_act": "gelu"}, "'hidden_act' is 'gelu'"),
        ({"attention_bias": True}, "'attention_bias' and 'mlp_bias' go with dense layers only"),
        ({"rope_dtype": "int8"}, "'rope_dtype' is 'int8'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'type' is 'yarn'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "'factor' is None"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "'partial_rotary_factor' is not 1"),
        ({"rope_scaling": "yarn"}, "'rope_scaling' is 'yarn', not an object"),
        (
            {"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_theta": 5.0}},
            "'rope_scaling' and 'rope_parameters' differ",
        ),
        (
            {
                "rope_scaling": {
                    "type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 4.0,
                    "high_freq_factor": 4.0,
                }
            },
            "'low_freq_factor' is 4.0, 'high_freq_factor' is 4.0",
        ),
        ({"quantization_config": "bitnet"}, "'quantization_config' is 'bitnet', not an object"),
        (
            {"quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": "x"}},
            "'modules_to_not_convert' is 'x', not a list",
        ),
        (
            {"quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": ["(("]}},
            "'modules_to_not_convert': '\\(\\(' is no pattern",
        ),
        ({"head_dim": 10**9}, "heads have 1000000000 columns: too many"),
        ({"quantization_config": None}, "transformers would round nothing"),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is not 1"),
        (QWEN2_WINDOW, "attention in a window of 4 is not known"),
        ({**QWEN2_WINDOW, "max_window_layers": 1}, "attention in a window of 4 is not known"),
        (
            {**QWEN2_WINDOW, "max_window_layers": 9, "layer_types": ["sliding_attention"]},
            "attention in a window of 4 is not known",
        ),
        ({"architectures": ["BitnetForCausalLM"], "weight_bits": 2}, "'weight_bits' is 2, not 1"),
        ({"quantization_config": {"quant_method": "gptq"}}, "'quant_method' is 'gptq'"),
        (
            {"quantization_config": {"quant_method": "bitnet", "use_rms_norm": True}},
            "'use_rms_norm' is not known",
        ),
    ],
)
def test_what_is_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(MmcError, match=message):
        TransformerConfig.parse({**TINY, **changes})


def test_frequencies() -> None:
    plain = Rope(100.0).frequencies(4)
    np.testing.assert_allclose(plain, [1, 0.1], 1e-7)
    np.testing.assert_allclose(Rope(100.0, "linear", 4.0).frequencies(4), plain / 4, 1e-7)
    rounded = Rope(100.0, dtype="bfloat16").frequencies(4)
    assert rounded.tolist() == [1, 0.10009765625]
    # Waves of 2 pi and 20 pi positions: the first stays, the second is between 2 and 4 of them.
    stretched = Rope(100.0, "llama3", 8.0, 2.0, 4.0, original=round(60 * math.pi))
    kept = (round(60 * math.pi) / (20 * math.pi) - 2) / 2
    wanted = [1, 0.1 * kept + 0.1 / 8 * (1 - kept)]
    np.testing.assert_allclose(stretched.frequencies(4), wanted, 1e-6)


def test_which_layers_are_dense() -> None:
    named = {"quant_method": "bitnet", "modules_to_not_convert": ["model.layers.1", "down_proj"]}
    config = TransformerConfig.parse({**LLAMA, "quantization_config": named})
    dense = {"model.layers.1.mlp.up_proj", "model.layers.0.mlp.down_proj", "lm_head"}
    assert all(map(config.is_dense, dense))
    assert not config.is_dense("model.layers.0.mlp.up_proj")
    assert not config.is_dense("model.layers.11.mlp.up_proj")
    assert TransformerConfig.parse(LLAMA).is_dense("model.layers.0.mlp.up_proj")
    assert not TransformerConfig.parse(TINY).is_dense("model.layers.0.mlp.up_proj")
