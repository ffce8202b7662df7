"""Trained Transformers against the logits of their original code, where somebody has them.

    MMC_TRAINED=FOLDER pytest --long tests/end_to_end/test_trained_transformers.py

FOLDER holds bitnet-17m and llama-17m, each a checkpoint with golden.safetensors: `input_ids`
i64 [2, 128] and `logits_fp32` f32 [128, V] of row 0.  They are too large for this repository.  The
code that made the logits had cast the whole module to bfloat16 before, so the frequencies of the
rotary embedding as well: `rope_dtype` says so.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import mmc
from tests.end_to_end.compiled import workspace

FOLDER = os.environ.get("MMC_TRAINED", "")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not FOLDER, reason="MMC_TRAINED names no folder with trained models"),
]


@cache
def model(name: str) -> mmc.Model:
    source = workspace() / f"trained-{name}"
    source.mkdir()
    for file in Path(FOLDER, name).resolve().iterdir():
        (source / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").unlink()
    (source / "config.json").write_text(json.dumps({**config, "rope_dtype": "bfloat16"}))
    out = workspace() / f"trained-{name}-cpu"
    mmc.compile(source, out=out, mcpu="native")
    loaded = mmc.load(out)
    assert isinstance(loaded, mmc.Model)
    return loaded


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    return load_file(Path(FOLDER, name, "golden.safetensors"))


@pytest.mark.parametrize(
    ("name", "exact", "bound"), [("llama-17m", 128, 1e-5), ("bitnet-17m", 2, 0.02)]
)
def test_logits_are_those_of_the_original_code(name: str, exact: int, bound: float) -> None:
    """The first `exact` positions within 1e-5: behind them activations round the other way."""
    wanted = golden(name)["logits_fp32"]
    found = model(name).forward(golden(name)["input_ids"][:1])[0]
    error = np.abs(found - wanted).max(-1) / np.abs(wanted).max()
    assert error[:exact].max() <= 1e-5
    assert error.max() <= bound


@pytest.mark.parametrize("name", ["llama-17m", "bitnet-17m"])
def test_decode_is_prefill_bit_for_bit(name: str) -> None:
    ids, own = golden(name)["input_ids"], model(name)
    whole, state = own.forward(ids), own.empty_state(len(ids))
    for t in range(ids.shape[1]):
        logits, state = own.decode(ids[:, t], state)
        assert np.array_equal(logits, whole[:, t]), t
