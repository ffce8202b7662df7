"""Tiny Mamba and RWKV-4 models, made by transformers' own modules, each compiled once."""

# pyright: basic
# transformers' lazy imports have no types.
from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

import mmc
from tests.folders import workspace

MODELS: Mapping[str, Mapping[str, Any]] = {
    "mamba": {"vocab_size": 97, "hidden_size": 40, "num_hidden_layers": 2},
    "mamba-options": {
        "vocab_size": 33, "hidden_size": 24, "num_hidden_layers": 3, "state_size": 5, "expand": 3,
        "conv_kernel": 3, "use_bias": True, "use_conv_bias": False, "time_step_rank": 7,
        "hidden_act": "gelu", "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3,
        "residual_in_fp32": False, "time_step_scale": 0.5, "time_step_floor": 1e-3,
    },
    "mamba-narrow": {
        "vocab_size": 9, "hidden_size": 10, "num_hidden_layers": 1, "state_size": 1, "expand": 1,
        "conv_kernel": 2, "use_bias": True, "hidden_act": "relu",
    },
    "rwkv": {"vocab_size": 97, "hidden_size": 40, "num_hidden_layers": 2},
    # Halved after every second layer; a large epsilon tells how often.
    "rwkv-options": {
        "vocab_size": 33, "hidden_size": 24, "num_hidden_layers": 5, "rescale_every": 2,
        "attention_hidden_size": 36, "intermediate_size": 50, "tie_word_embeddings": True,
        "layer_norm_epsilon": 0.1,
    },
    "rwkv-plain": {
        "vocab_size": 9, "hidden_size": 10, "num_hidden_layers": 2, "rescale_every": -1,
        "layer_norm_epsilon": 0.1,
    },
}  # fmt: skip

CHECKED = ("mamba", "rwkv")


def values_of(name: str, like: torch.Tensor) -> torch.Tensor:
    """Random values of a size that such a parameter has."""
    noise = torch.randn(like.shape)
    if "time_mix" in name:
        return torch.rand(like.shape)
    if name.endswith(("norm.weight", "norm_f.weight", "ln.weight", "ln1.weight", "ln2.weight")):
        return 1 + 0.2 * noise
    return noise / (like.shape[-1] ** 0.5 if like.dim() == 2 else 2)


def theirs(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' module with random weights, of which half have the given precision."""
    import transformers

    torch.manual_seed(4)
    kind = "Mamba" if name.startswith("mamba") else "Rwkv"
    config = getattr(transformers, f"{kind}Config")(**MODELS[name])
    module = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            parameter.copy_(values_of(key, parameter).to(dtype))
    return module


@cache
def checkpoint(name: str) -> Path:
    module: nn.Module = theirs(name)
    folder = workspace() / f"checkpoint-{name}"
    folder.mkdir(parents=True)
    config = module.config.to_json_string(use_diff=False)  # type: ignore[union-attr,operator]
    (folder / "config.json").write_text(config)
    tied = json.loads(config)["tie_word_embeddings"]
    stored = {
        key: tensor.clone() for key, tensor in module.state_dict().items()
        if not (tied and key in ("head.weight", "lm_head.weight"))
    }  # fmt: skip
    save_file(stored, folder / "model.safetensors")
    return folder


@cache
def golden(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Token ids i64 [2, 24] and transformers' logits f32 [2, 24, V]."""
    ids = torch.randint(0, MODELS[name]["vocab_size"], (2, 24))
    with torch.no_grad():
        return ids.numpy(), theirs(name)(ids, use_cache=False).logits.numpy()


@cache
def artifact(name: str, target: str) -> Path:
    """The folder of a compiled model, for this machine's processor alone; some are checked."""
    out = workspace() / f"recurrent-{name}-{target}"
    mcpu = "native" if target == "cpu" else None
    check = target == "cpu" and name in CHECKED
    mmc.compile(checkpoint(name), target=target, out=out, mcpu=mcpu, check=check)
    return out


@cache
def model(name: str, target: str = "cpu") -> mmc.Model:
    loaded = mmc.load(artifact(name, target))
    assert isinstance(loaded, mmc.Model)
    return loaded
