"""The tiny Transformers of tests/data, each compiled once for a test run."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

import mmc
from mmc.frontends.models.hybrid_config import HybridConfig
from mmc.nn import MatMulFreeLM
from tests.end_to_end.compiled import ROOT
from tests.folders import once

MODELS = ROOT / "tests" / "data" / "transformers"
NAMES = ("llama", "qwen2", "bitnet", "bitnet-packed", "llama-bitnet")
COMPILED = ("llama", "qwen2", "bitnet")
"""What the CPU runs in tests; the others are stored in another way, and the same behind that."""
CONTEXT = 90


HYBRID: dict[str, Any] = {
    "model_type": "mmc_hybrid", "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3,
    "intermediate_size": 56, "num_attention_heads": 6, "num_key_value_heads": 2,
    "max_position_embeddings": 96, "rms_norm_eps": 1e-6, "rope_theta": 1000.0, "eos_token_id": 96,
    "layer_types": ["linear_recurrence", "full_attention", "linear_recurrence"],
}  # fmt: skip


@cache
def hybrid() -> Path:
    """A checkpoint of random weights, MatMul-free but for the attention of a layer."""
    return once("hybrid", _write_hybrid)


def _write_hybrid(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(HYBRID))
    torch.manual_seed(1)
    tensors = MatMulFreeLM(HybridConfig.parse(HYBRID)).state_dict()
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(folder / "model.safetensors"))


def source(name: str) -> Path:
    """The checkpoint of a model: one of `NAMES`, or "hybrid"."""
    return hybrid() if name == "hybrid" else MODELS / name


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    """`input_ids` i64 [2, 24] and `logits` f32 [2, 24, V], by transformers."""
    return load_file(MODELS / name / "golden.safetensors")


@cache
def artifact(name: str, target: str) -> Path:
    """The folder of a compiled model; for this machine's processor alone, and one is checked."""

    def make(out: Path) -> object:
        return mmc.compile(
            source(name), target=target, out=out, context=CONTEXT,
            mcpu="native" if target == "cpu" else None,
            board="kv260" if target == "fpga" else None,
            check=(name, target) in (("bitnet", "cpu"), ("hybrid", "fpga")),
        )  # fmt: skip

    return once(f"transformer-{name}-{target}", make)


@cache
def model(name: str, target: str = "cpu") -> mmc.Model:
    loaded = mmc.load(artifact(name, target))
    assert isinstance(loaded, mmc.Model)
    return loaded
