"""Models that several tests need, each written and compiled once for a test run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import mmc
from mmc.frontends.checkpoint import read_store
from mmc.frontends.models.hgrn_bit import HgrnBitConfig, HgrnBitForCausalLM
from mmc.ir.evaluate import evaluate
from mmc.ir.text import parse
from tests.folders import once


def one_thread() -> None:
    """Kernels of every test use one thread, unless the environment says otherwise."""
    os.environ.setdefault("MMC_NUM_THREADS", "1")


one_thread()

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "mmfree-9m"
GOLDEN = ROOT / "tests" / "data" / "mmfree-9m-golden.safetensors"

TINY: Mapping[str, Any] = {
    "model_type": "hgrn_bit",
    "vocab_size": 17,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "intermediate_size": 37,
    "eos_token_id": 16,
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {},
    "shared_conv": {"hidden_size": 72, "vocab_size": 1003, "use_short_conv": True},
    "two_convs": {
        "hidden_size": 40,
        "use_short_conv": True,
        "share_conv_kernel": False,
        "conv_size": 3,
        "gate_order": "hgrn",
    },
    "paper": {
        "hidden_size": 250,
        "intermediate_size": 333,
        "gate_order": "paper",
        "use_lower_bound": False,
        "rounding": "half_even",
    },
    "wide": {
        "hidden_size": 72,
        "num_heads": 2,
        "expand_ratio": 2,
        "use_lower_bound": False,
        "gate_order": "hgrn",
    },
    "tied": {"vocab_size": 257, "intermediate_size": 3, "tie_word_embeddings": True},
}
EVERY_ISA = ("example", "tiny", "paper")
"""Compiled for every instruction set in 2 bits; all else for this machine's processor alone."""


def write_model(folder: Path, changes: Mapping[str, Any], seed: int = 0) -> Path:
    """A checkpoint with random weights; `changes` are keys of config.json over `TINY`."""
    config = {**TINY, **changes}
    module = HgrnBitForCausalLM(HgrnBitConfig.parse(config))
    random = np.random.default_rng(seed)
    state = module.state_dict()
    if config.get("tie_word_embeddings"):
        del state["lm_head.weight"]
    tensors = {name: _values(random, tuple(t.shape)) for name, t in state.items()}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


def _values(random: np.random.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    noise = random.standard_normal(shape).astype(np.float32)
    return torch.from_numpy(1 + 0.2 * noise if len(shape) == 1 else noise).to(torch.bfloat16)


@cache
def checkpoint(variant: str) -> Path:
    return once(f"checkpoint-{variant}", lambda path: write_model(path, VARIANTS[variant]))


def artifact(variant: str, target: str = "cpu", weights: str = "2bit") -> Path:
    """The folder of a compiled model; the 2-bit CPU ones are checked and have a certificate."""
    return _artifact(variant, target, weights)


@cache
def _artifact(variant: str, target: str, weights: str) -> Path:
    source = EXAMPLE if variant == "example" else checkpoint(variant)
    options: dict[str, Any] = {"target": target, "weights": weights}
    if target == "cpu":
        options["mcpu"] = None if variant in EVERY_ISA and weights == "2bit" else "native"
        options["check"] = variant not in ("example", "tied") and weights == "2bit"
    name = f"{variant}-{target}-{weights}"
    return once(name, lambda out: mmc.compile(source, out=out, **options))


def source_logits(variant: str, ids: np.ndarray) -> np.ndarray:
    """Logits [B, T, V] of the imported graph, before any pass, run by the interpreter."""
    graph = parse((artifact(variant) / "passes" / "00-input.mmc").read_text())
    stored = read_store(checkpoint(variant))
    tensors = {weight.name: stored[weight.name].load() for weight in graph.weights}
    states = model(variant).empty_state(len(ids)).arrays
    inputs = {"ids": ids, "lengths": np.full(len(ids), ids.shape[1]), **states}
    return evaluate(graph, inputs, tensors)["logits"]


def model(variant: str, target: str = "cpu", weights: str = "2bit") -> mmc.Model:
    """The compiled model, loaded once."""
    return _model(variant, target, weights)


@cache
def _model(variant: str, target: str, weights: str) -> mmc.Model:
    loaded = mmc.load(_artifact(variant, target, weights))
    assert isinstance(loaded, mmc.Model)
    return loaded


def token_ids(vocabulary: int, batch: int, time: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocabulary, (batch, time))
