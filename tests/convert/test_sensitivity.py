"""The ranking of layers."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mmc.convert.sensitivity import sensitivity
from tests.convert.tiny import held_out, write_model
from tests.end_to_end.test_command_line import mmc


def test_layer_that_adds_nothing_means_nothing(tmp_path: Path) -> None:
    """Layer 1's attention is silent already, and its MLP is ternary up to its activations."""
    write_model(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.self_attn.o_proj.weight"].zero_()
    tensors["model.layers.0.self_attn.o_proj.weight"] *= 1000
    tensors["model.layers.0.mlp.gate_proj.weight"] *= 10
    tensors["model.layers.0.mlp.down_proj.weight"] *= 1000
    for name in ("gate", "up", "down"):
        weight = tensors[f"model.layers.1.mlp.{name}_proj.weight"]
        weight.copy_(0.1 * torch.sign(weight))
    save_file(tensors, file)
    found = sensitivity(tmp_path / "model", held_out(), 1000)
    first, second = found.layers
    assert found.tokens == 1000
    assert second.attention_removed == second.attention_rounded == 0
    assert abs(second.mlp_rounded) < 1e-3
    assert abs(first.attention_removed) > 1e-2
    assert abs(first.mlp_rounded) > 1e-2
    told = mmc("inspect", tmp_path / "model", "--sensitivity", held_out(), "--tokens", "1000")
    assert told.stdout.splitlines() == str(found).splitlines()
    first_named = int(told.stdout.splitlines()[2].split()[0])
    assert first_named == (0 if first.attention_removed > 0 else 1)
