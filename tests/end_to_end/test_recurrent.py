"""Mamba and RWKV-4, in the interpreter and on the CPU, against transformers' modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmc
from mmc.errors import MmcError
from tests.end_to_end.recurrent import CHECKED, MODELS, artifact, checkpoint, golden, model
from tests.end_to_end.states import decode_is_prefill, pieces_are_the_prompt

pytest.importorskip("transformers")

COMPILED = ("mamba", "mamba-options", "rwkv", "rwkv-options")


@pytest.mark.parametrize(
    ("name", "target"), [*((n, "reference") for n in MODELS), *((n, "cpu") for n in COMPILED)]
)
def test_logits_are_those_of_transformers(name: str, target: str) -> None:
    ids, wanted = golden(name)
    found = model(name, target).forward(ids)
    assert np.abs(found - wanted).max() <= 4e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("name", CHECKED)
def test_every_kernel_is_the_interpreters(name: str) -> None:
    record = json.loads((artifact(name, "cpu") / "certificate.json").read_text())["target"]
    assert record["kernels"] > 40
    assert record["failures"] == []
    assert record["float_error"] <= 2e-6


@pytest.mark.parametrize("name", COMPILED)
def test_decode_is_prefill_bit_for_bit(name: str) -> None:
    decode_is_prefill(model(name), golden(name)[0], [24, 7])


@pytest.mark.parametrize("name", CHECKED)
def test_a_prompt_in_pieces_is_the_prompt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces_are_the_prompt(model(name), golden(name)[0], [24, 11], monkeypatch)


@pytest.mark.parametrize("name", CHECKED)
def test_generation_takes_the_likeliest_tokens(name: str) -> None:
    ids = golden(name)[0][:, :5]
    found = model(name).generate(ids, 4)
    _, state = model(name).prefill(ids)
    token, wanted = model(name).forward(ids)[:, -1].argmax(-1), list[np.ndarray]()
    for _ in range(found.shape[1]):
        wanted.append(token)
        logits, state = model(name).decode(token, state)
        token = logits.argmax(-1)
    ended = np.cumsum(found == 0, 1) - (found == 0) > 0  # behind an end of text
    assert np.array_equal(np.where(ended, 0, np.stack(wanted, 1)), found)


@pytest.mark.parametrize(
    ("name", "state"),
    [("mamba", "f32[B, 16, 80]"), ("rwkv", "f32[B, 40], f32[B, 40], f32[B, 40]")],
)
def test_the_memory_is_linear_and_the_layers_are_dense(name: str, state: str) -> None:
    manifest = json.loads((artifact(name, "reference") / "manifest.json").read_text())
    assert [(r["linear"], r["state"]) for r in manifest["recurrences"]] == [(True, state)] * 2
    assert not any(layer["ternary"] for layer in manifest["layers"])
    with pytest.raises(MmcError, match="MatMuls are left"):
        mmc.compile(checkpoint(name), require_matmul_free=True, out="/nonexistent/x")


def test_a_gpu_has_no_scan() -> None:
    with pytest.raises(MmcError, match="a GPU has no kernel for scan"):
        mmc.compile(checkpoint("rwkv"), target="cuda", out="/nonexistent/x")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mamba", {"hidden_size": None}, "'hidden_size' is missing"),
        ("mamba", {"state_size": 0}, "'state_size' is 0, less than 1"),
        ("mamba", {"state_size": 8}, r"A_log' is f32\[80, 16\], expected f32\[80, 8\]"),
        ("mamba", {"expand": 1.5}, "'expand' is 1.5, not a whole number"),
        ("mamba", {"conv_kernel": 1}, "'conv_kernel' is 1, less than 2"),
        ("mamba", {"time_step_rank": "many"}, "'time_step_rank' is 'many', not a whole number"),
        ("mamba", {"hidden_act": "mish"}, "'hidden_act' is 'mish'"),
        ("mamba", {"use_bias": True}, "tensor 'backbone.layers.0.mixer.in_proj.bias' is missing"),
        ("mamba", {"tie_word_embeddings": False}, "tensor 'lm_head.weight' is missing"),
        ("mamba", {"num_hidden_layers": 1}, "tensor 'backbone.layers.1.* is not part of this"),
        ("rwkv", {"vocab_size": "97"}, "'vocab_size' is '97', not a whole number"),
        ("rwkv", {"layer_norm_epsilon": -1.0}, "'layer_norm_epsilon' is -1.0, not positive"),
        ("rwkv", {"rescale_every": 1.5}, "'rescale_every' is 1.5, not a whole number"),
        ("rwkv", {"attention_hidden_size": 41}, "tensor 'rwkv.blocks.0.attention.time_decay' is"),
        ("rwkv", {"num_hidden_layers": 3}, "tensor 'rwkv.blocks.2.* is missing"),
    ],
)
def test_what_is_refused(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = json.loads((checkpoint(name) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    (tmp_path / "model.safetensors").symlink_to(checkpoint(name) / "model.safetensors")
    with pytest.raises(MmcError, match=message):
        mmc.compile(tmp_path, target="reference", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
