"""Trained Transformers against the logits of their original code, where somebody has them.

    export TORCHDYNAMO_DISABLE=1 MMC_TRAINED=FOLDER
    pytest --long tests/end_to_end/test_trained_transformers.py

FOLDER holds bitnet-17m and llama-17m, each a checkpoint with golden.safetensors: `input_ids`
i64 [2, 128] and `logits_fp32` f32 [128, V] of row 0.  They are too large for this repository.

The code that made those logits had cast the whole module to bfloat16 before, the frequencies of the
rotary embedding with it; transformers keeps them in float32 in whatever type it loads these
folders.  So they are compared twice: with the golden logits by way of `rope_dtype`, and as they are
with what transformers, where it is installed, computes from the same folder.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

import mmc
from mmc.export import export
from mmc.frontends.checkpoint import read_store
from mmc.frontends.i2s import I2sLayout, choose_layout
from tests.folders import workspace
from tests.frontends.gguf_files import pack_i2s

FOLDER = os.environ.get("MMC_TRAINED", "")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not FOLDER, reason="MMC_TRAINED names no folder with trained models"),
]


@cache
def model(name: str, rope_dtype: str) -> mmc.Model:
    source = workspace() / f"trained-{name}-{rope_dtype}"
    source.mkdir()
    for file in Path(FOLDER, name).resolve().iterdir():
        (source / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").unlink()
    (source / "config.json").write_text(json.dumps({**config, "rope_dtype": rope_dtype}))
    out = workspace() / f"trained-{name}-{rope_dtype}-cpu"
    mmc.compile(source, out=out, mcpu="native")
    loaded = mmc.load(out)
    assert isinstance(loaded, mmc.Model)
    return loaded


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    return load_file(Path(FOLDER, name, "golden.safetensors"))


def errors(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Of each position, over the largest logit."""
    return np.abs(found - wanted).max(-1) / np.abs(wanted).max()


@pytest.mark.parametrize(
    ("name", "exact", "bound"), [("llama-17m", 128, 1e-5), ("bitnet-17m", 2, 0.02)]
)
def test_logits_are_those_of_the_original_code(name: str, exact: int, bound: float) -> None:
    """The first `exact` positions within 1e-5: behind them activations round the other way."""
    found = model(name, "bfloat16").forward(golden(name)["input_ids"][:1])[0]
    error = errors(found, golden(name)["logits_fp32"])
    assert error[:exact].max() <= 1e-5
    assert error.max() <= bound


def of_transformers(name: str, rounded: bool) -> np.ndarray:
    """Logits of row 0; rounded: with frequencies that were cast to bfloat16 and back."""
    transformers = pytest.importorskip("transformers")
    folder = Path(FOLDER, name).resolve()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rotary = theirs.model.rotary_emb
    assert rotary.inv_freq.dtype is torch.float32
    if rounded:
        rotary.inv_freq = rotary.inv_freq.bfloat16().float()
    with torch.no_grad():
        return theirs(torch.tensor(golden(name)["input_ids"][:1])).logits[0].numpy()


@pytest.mark.parametrize(
    ("name", "exact", "bound"), [("llama-17m", 128, 1e-5), ("bitnet-17m", 1, 0.02)]
)
def test_logits_are_those_of_transformers(name: str, exact: int, bound: float) -> None:
    found = model(name, "float32").forward(golden(name)["input_ids"][:1])[0]
    error = errors(found, of_transformers(name, rounded=False))
    assert error[:exact].max() <= 1e-5
    assert error.max() <= bound


@pytest.mark.parametrize(
    ("name", "rounded", "first", "all_"),
    [
        ("llama-17m", False, 2e-5, 8e-4),
        ("llama-17m", True, 7e-7, 1e-6),
        ("bitnet-17m", False, 3e-3, 1e-2),
        ("bitnet-17m", True, 2e-3, 9e-3),
    ],
)
def test_how_far_transformers_itself_is(
    name: str, rounded: bool, first: float, all_: float
) -> None:
    """From the golden logits: in the first four positions, and in all."""
    error = errors(of_transformers(name, rounded), golden(name)["logits_fp32"])
    assert error[:4].max() == pytest.approx(first, rel=0.5)
    assert error.max() == pytest.approx(all_, rel=0.5)


def exact(nudged: tuple[str, int, int] | None) -> np.ndarray:
    """bitnet-17m's logits in float64.

    A number half way between two integers, to the last bit of float32, goes to the even one.
    nudged: a layer, a position and a column to round up.
    """
    transformers = pytest.importorskip("transformers")
    folder = Path(FOLDER, "bitnet-17m").resolve()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    theirs.model.rotary_emb.inv_freq = theirs.model.rotary_emb.inv_freq.bfloat16().float()

    def forward(x: torch.Tensor, name: str, w: torch.Tensor) -> torch.Tensor:
        scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        q = (x * scale).float().round().double()
        if nudged is not None and name == nudged[0]:
            q[0, nudged[1], nudged[2]] += 1
        size = w.abs().mean()
        return torch.nn.functional.linear(q / scale, (w / size).round().clamp(-1, 1) * size)

    for name, layer in theirs.double().named_modules():
        if name.endswith("_proj"):
            layer.forward = partial(forward, name=name, w=layer.weight)
    with torch.no_grad():
        return theirs(torch.tensor(golden("bitnet-17m")["input_ids"][:1, :4])).logits[0].numpy()


def test_one_activation_is_between_exact_arithmetic_and_the_golden_logits() -> None:
    """41.499996 of a step, before o_proj of layer 5 at position 2: the golden logits have 42 there.

    41.5 is the next float32: after so many sums it can be either.
    """
    wanted = golden("bitnet-17m")["logits_fp32"][:4]
    plain, other = exact(None), exact(("model.layers.5.self_attn.o_proj", 2, 231))
    assert errors(plain, wanted)[:2].max() <= 1e-6
    assert errors(plain, wanted)[2:].min() >= 1e-3
    assert errors(other, wanted).max() <= 1e-6
    ours = model("bitnet-17m", "bfloat16").forward(golden("bitnet-17m")["input_ids"][:1, :4])[0]
    assert errors(ours, plain)[:3].max() <= 1e-6


@pytest.mark.parametrize(
    ("name", "exact", "bound"), [("llama-17m", 128, 1e-5), ("bitnet-17m", 2, 0.02)]
)
def test_logits_of_the_exported_model(
    name: str, exact: int, bound: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mmc export`, run by onnxruntime: a whole prompt, and token by token."""
    own, ids = model(name, "bfloat16"), golden(name)["input_ids"][:1]
    export(own.artifact.path, tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    empty = own.empty_state(1).arrays

    def run(ids: np.ndarray, state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Any]:
        inputs = {"ids": ids, "lengths": np.array([ids.shape[1]]), **state}
        made: Any = session.run(None, inputs)
        logits, *new = made
        return logits[0], dict(zip(state, new, strict=True))

    whole, _ = run(ids, empty)
    state, steps = empty, []
    for t in range(ids.shape[1]):
        logits, state = run(ids[:, t : t + 1], state)
        steps.append(logits)
    wanted = {
        "golden": golden(name)["logits_fp32"],
        "the CPU target": own.forward(ids)[0],
        "token by token": np.concatenate(steps),
    }
    with capsys.disabled():
        for who, logits in wanted.items():
            error = errors(whole, logits)
            sys.stdout.write(f"\n{name}, {who}: {error[:4].max():.1e}, {error.max():.1e}")
            assert error[: 128 if who == "token by token" else exact].max() <= 1e-5
            assert error.max() <= bound


@pytest.mark.parametrize("layout", ["128", "rows"])
def test_the_layout_of_i2s_is_told_by_trained_weights(layout: I2sLayout) -> None:
    store = read_store(Path(FOLDER, "bitnet-17m"))
    floats = [s.load().astype(np.float32) for n, s in store.items() if n.endswith("_proj.weight")]
    trits = [np.clip(np.round(w / np.abs(w).mean()), -1, 1).astype(np.int8) for w in floats]
    packed = [(pack_i2s(t, 1.0, layout), t.shape) for t in trits]
    for first in range(0, len(packed), 8):
        assert choose_layout(packed[first : first + 8], "bitnet-17m") == layout


@pytest.mark.parametrize("name", ["llama-17m", "bitnet-17m"])
def test_decode_is_prefill_bit_for_bit(name: str) -> None:
    ids, own = golden(name)["input_ids"], model(name, "bfloat16")
    whole, state = own.forward(ids), own.empty_state(len(ids))
    for t in range(ids.shape[1]):
        logits, state = own.decode(ids[:, t], state)
        assert np.array_equal(logits, whole[:, t]), t
