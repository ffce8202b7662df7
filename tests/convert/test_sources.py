"""What a conversion begins with: Qwen2's biases, and GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmc.convert import convert
from mmc.convert.rewrite import rounded
from mmc.convert.source import read_source
from mmc.convert.text import read_text
from mmc.frontends.models.gguf_checkpoint import NAMES
from tests.convert import tiny
from tests.convert.tiny import options, training, write_model
from tests.end_to_end.test_command_line import mmc
from tests.end_to_end.transformers import MODELS, golden
from tests.frontends.gguf_files import permuted, write


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_teacher_is_the_model_of_transformers(name: str) -> None:
    """Both have biases: Qwen2 of queries, keys and values, this Llama everywhere."""
    source = read_source(MODELS / name)
    assert source.has_biases
    with torch.no_grad():
        found = source.teacher()(torch.from_numpy(golden(name)["input_ids"]))
    wanted = golden(name)["logits"]
    assert np.abs(found.numpy() - wanted).max() <= 2e-6 * np.abs(wanted).max()


def test_rounding_keeps_biases_and_conversion_leaves_them_out(tmp_path: Path) -> None:
    module = write_model(tmp_path / "model", {"model_type": "qwen2"})
    biases = {n: t for n, t in module.tensors().items() if n.endswith(".bias")}
    assert len(biases) == 2 * 3
    state = rounded(module).state_dict()
    assert all(torch.equal(state[name], bias) for name, bias in biases.items())
    for to in ("ternary", "matmul-free"):
        record = convert(tmp_path / "model", tmp_path / to, options(to, training(2)))
        assert record["biases_left_out"]
        assert "no biases" in (tmp_path / to / "README.md").read_text()
        names = load_file(tmp_path / to / "model.safetensors").keys()
        assert not any(name.endswith(".bias") for name in names)


@pytest.fixture
def gguf(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file, and the tensors of the folder that it was made of."""
    module = write_model(tmp_path / "model", {"vocab_size": 257})
    tokens = list(read_source(tmp_path / "model").tokenizer().get_vocab())
    keys: dict[str, Any] = {
        "llama.context_length": 64, "llama.embedding_length": 32, "llama.feed_forward_length": 48,
        "llama.rope.dimension_count": 8, "llama.rope.freq_base": 1000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-6, "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": [*tokens, "th"],
        "tokenizer.ggml.merges": ["t h"], "tokenizer.ggml.eos_token_id": 0,
    }  # fmt: skip
    made = {_name(name): tensor.numpy() for name, tensor in module.tensors().items()}
    for name in made:
        heads = 4 if "attn_q" in name else 2
        if "attn_q." in name or "attn_k." in name:
            made[name] = permuted(made[name], heads)
    return write(tmp_path / "m.gguf", "llama", made, metadata=keys), module.tensors()


def _name(name: str) -> str:
    """llama.cpp's."""
    for theirs, ours in NAMES.items():
        name = name.replace(f"{ours}.weight", f"{theirs}.weight")
    return name.replace("model.layers", "blk")


def test_gguf_is_the_folder_that_it_was_made_of(
    gguf: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    path, tensors = gguf
    teacher = read_source(path).teacher()
    found = teacher.tensors()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert (teacher.config.rope.theta, teacher.config.rms_norm_eps) == (1000.0, pytest.approx(1e-6))


def test_gguf_is_converted_with_its_tokenizer(
    gguf: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, out = gguf[0], tmp_path / "out"
    text = ["--text", tiny.text(), "--held-out", tiny.held_out(), "--steps", "3", "--window", "16"]
    done = mmc("convert", path, "-o", out, "--to", "ternary", *text, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    held_out = read_text([tiny.text()], tiny.held_out(), read_source(path).tokenizer(), 1).held_out
    assert record["text"]["held_out_tokens"] == len(held_out) < 3000
    assert record["source"] == "m.gguf"
    tokenizer = read_source(path).tokenizer()
    assert json.loads((out / "tokenizer.json").read_text()) == json.loads(tokenizer.to_str())
    told = mmc("inspect", path, "--sensitivity", tiny.held_out(), "--tokens", "200")
    assert len(told.stdout.splitlines()) == 4
