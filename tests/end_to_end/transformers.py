"""The tiny Transformers of tests/data, each compiled once for a test run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import mmc
from tests.end_to_end.compiled import ROOT, workspace

MODELS = ROOT / "tests" / "data" / "transformers"
NAMES = ("llama", "qwen2", "bitnet", "bitnet-packed", "llama-bitnet")
COMPILED = ("llama", "qwen2", "bitnet")
"""What the CPU runs in tests; the others are stored in another way, and the same behind that."""
CONTEXT = 90


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    """`input_ids` i64 [2, 24] and `logits` f32 [2, 24, V], by transformers."""
    return load_file(MODELS / name / "golden.safetensors")


@cache
def artifact(name: str, target: str) -> Path:
    """The folder of a compiled model; for this machine's processor alone, and one is checked."""
    out = workspace() / f"transformer-{name}-{target}"
    mcpu = "native" if target == "cpu" else None
    check = (name, target) == ("bitnet", "cpu")
    mmc.compile(MODELS / name, target=target, out=out, mcpu=mcpu, check=check, context=CONTEXT)
    return out


@cache
def model(name: str, target: str = "cpu") -> mmc.Model:
    loaded = mmc.load(artifact(name, target))
    assert isinstance(loaded, mmc.Model)
    return loaded
