"""Write the tiny Transformers and their logits, by transformers' own modules.

    pip install transformers
    TORCHDYNAMO_DISABLE=1 python tests/data/make_transformers.py

Each folder of tests/data/transformers is a checkpoint with random weights and golden.safetensors:
`input_ids` i64 [2, 24] and `logits` f32 [2, 24, V], computed in float32.  They differ in what real
checkpoints differ in: see `MODELS`.
"""

# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
# transformers is installed for this script alone.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

OUT = Path(__file__).with_name("transformers")
SIZES = {
    "vocab_size": 97, "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2,
    "max_position_embeddings": 96, "bos_token_id": 1, "eos_token_id": 96, "pad_token_id": None,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    # Dense; heads of another width than hidden_size / heads, biases, stretched frequencies.
    "llama": {
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
        "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        },
    },
    # Dense; biases of queries, keys and values, a tied head, a window that is not used.
    "qwen2": {
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_window": 32, "use_sliding_window": False,
    },
    # Floats, made ternary on the fly.
    "bitnet": {
        "num_attention_heads": 5, "num_key_value_heads": 5, "tie_word_embeddings": True,
        "quantization_config": {"linear_class": "autobitlinear", "quantization_mode": "online"},
    },
    # Packed; weight_scale is mean|w|.
    "bitnet-packed": {
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
        "quantization_config": {"linear_class": "autobitlinear", "quantization_mode": "offline"},
    },
    # Packed; weight_scale is 1 / mean|w|.
    "llama-bitnet": {
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
        "quantization_config": {"modules_to_not_convert": ["model.layers.1.mlp.up_proj"]},
    },
}  # fmt: skip


def made(name: str, values: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The module with random weights, and its config.json."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations.bitnet import replace_with_bitnet_linear
    from transformers.utils.quantization_config import BitNetQuantConfig

    values = {**SIZES, **values}
    quantisation = values.pop("quantization_config", None)
    config = AutoConfig.for_model(name.partition("-")[0], **values)
    module: Any = AutoModelForCausalLM.from_config(config)
    written = {**json.loads(config.to_json_string(use_diff=False)), **values}
    if quantisation is not None:
        kept = ["lm_head", *quantisation.get("modules_to_not_convert", [])]
        replace_with_bitnet_linear(module, kept, BitNetQuantConfig(**quantisation))
        written["quantization_config"] = {"quant_method": "bitnet", **quantisation}
    return module, written


def fill(module: nn.Module) -> dict[str, torch.Tensor]:
    """Random values into the module; returns them as a checkpoint holds them."""
    from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights

    stored: dict[str, torch.Tensor] = {}
    for name, part in module.named_modules():
        quantised = isinstance(part, BitLinear | AutoBitLinear)
        for key, old in list(part.named_parameters(recurse=False)):
            noise = torch.randn(old.shape)
            value = 1 + 0.2 * noise if "norm" in name else 0.3 * noise
            setattr(part, key, nn.Parameter(value))
            stored[f"{name}.{key}"] = value
        if quantised and "weight_scale" in dict(part.named_buffers()):
            w = torch.randn(part.out_features, part.in_features)
            mean = w.abs().mean() * 0.1
            trits = (w / w.abs().mean()).round().clamp(-1, 1)
            packed = pack_weights(trits.clone())
            multiplies = isinstance(part, AutoBitLinear)
            scale = (mean if multiplies else 1 / mean).reshape(1)
            part.dtype, part.weight_scale = torch.float32, nn.Buffer(scale)
            part.weight = nn.Parameter(trits) if multiplies else nn.Buffer(packed)
            stored |= {f"{name}.weight": packed, f"{name}.weight_scale": scale}
    return stored


def write(name: str) -> None:
    torch.manual_seed(5)
    module, config = made(name, MODELS[name])
    stored = fill(module)
    if config["tie_word_embeddings"]:
        del stored["lm_head.weight"]
        module.lm_head.weight = module.model.embed_tokens.weight
    ids = torch.randint(0, config["vocab_size"], (2, 24))
    with torch.no_grad():
        logits = module.eval()(ids).logits
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    save_file(stored, folder / "model.safetensors")
    save_file({"input_ids": ids, "logits": logits.contiguous()}, folder / "golden.safetensors")


if __name__ == "__main__":
    for each in MODELS:
        write(each)
