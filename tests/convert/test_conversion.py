"""What a conversion writes: that it is better than rounding, and what the compiler makes of it."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mmc
from mmc.convert import ConvertOptions, convert
from mmc.convert.rewrite import Choices, build, initialise, input_sizes, student_values
from mmc.convert.source import read_source
from mmc.errors import MmcError
from mmc.nn import bit_linear
from mmc.passes.convert_layers import kept_layers
from mmc.perplexity import perplexity
from tests.convert.tiny import WINDOW, held_out, options, teacher, training
from tests.end_to_end.compiled import EXAMPLE
from tests.folders import workspace

WAYS: dict[str, dict[str, Any]] = {
    "ternary": {"to": "ternary"},
    "matmul-free": {"to": "matmul-free"},
    "hybrid": {"to": "matmul-free", "keep_attention": "every=2", "gate_order": "hgrn"},
}


@cache
def converted(way: str) -> tuple[Path, dict[str, Any]]:
    """The folder and its record."""
    out = workspace() / f"converted-{way}"
    return out, convert(teacher(), out, options(**WAYS[way], training=training(100), picture=True))


@pytest.mark.parametrize("way", WAYS)
def test_training_gains_over_rounding(way: str) -> None:
    nats = converted(way)[1]["nats_per_token"]
    assert nats["teacher"] < nats["rounded without training"]
    assert nats["converted"] < nats["rounded without training"] - 0.1
    assert nats["converted"] < nats["before training"] - 0.1


@pytest.mark.parametrize(
    ("way", "target"),
    [
        *((way, "cpu") for way in WAYS),
        ("hybrid", "reference"),
        pytest.param("ternary", "fpga", marks=pytest.mark.slow),
        pytest.param("matmul-free", "fpga", marks=pytest.mark.slow),
    ],
)
def test_compiled_model_has_the_perplexity_that_training_reports(way: str, target: str) -> None:
    folder, record = converted(way)
    out = workspace() / f"compiled-{way}-{target}"
    needed: dict[str, Any] = {"cpu": {"mcpu": "native"}, "fpga": {"board": "kv260"}}
    mmc.compile(folder, target=target, out=out, **needed.get(target, {}))
    model = mmc.load(out)
    assert isinstance(model, mmc.Model)
    ids = np.array(model.encode(held_out().read_text()), np.int64)
    found = perplexity(model, ids, WINDOW).perplexity
    assert found == pytest.approx(record["perplexity"]["converted"], rel=5e-3)


def test_matmul_free_model_has_the_names_of_the_released_code() -> None:
    """All tensors are there, and no other; nor is there a config key of ours."""

    def names(folder: Path) -> set[str]:
        tensors: set[str] = set()
        for file in folder.glob("*.safetensors"):
            tensors |= load_file(file).keys()
        return {re.sub(r"\d+", "N", name) for name in tensors}

    folder, _ = converted("matmul-free")
    assert names(folder) == names(EXAMPLE)
    config = json.loads((folder / "config.json").read_text())
    assert config.keys() <= json.loads((EXAMPLE / "config.json").read_text()).keys()


def test_folder_says_what_was_done() -> None:
    folder, record = converted("hybrid")
    assert json.loads((folder / "conversion.json").read_text()) == record
    card = (folder / "README.md").read_text()
    for nats in record["nats_per_token"].values():
        assert f"| {nats:.4f} |" in card
    rows = (folder / "curve.csv").read_text().splitlines()
    assert len(rows) == 101
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "tokenizer.json").read_bytes() == (teacher() / "tokenizer.json").read_bytes()
    assert not folder.with_name(f"{folder.name}.training").exists()


def test_without_text_it_only_rewrites(tmp_path: Path) -> None:
    record = convert(teacher(), tmp_path / "out", ConvertOptions("ternary"))
    assert record["training"] is None
    assert "It was not trained" in (tmp_path / "out" / "README.md").read_text()
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in load_file(teacher() / "model.safetensors").items():
        assert torch.equal(found[name], tensor.bfloat16())


def test_control_takes_nothing_over(tmp_path: Path) -> None:
    """It begins with a uniform guess of 256 tokens, or worse."""
    record = convert(
        teacher(), tmp_path / "out", options("matmul-free", training(1), from_scratch=True)
    )
    assert record["nats_per_token"]["before training"] > 5.5
    assert record["from_scratch"]


@pytest.mark.parametrize("kept", [(), (0, 1)])
def test_projections_begin_as_the_transformers(
    kept: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing rounded each projection gives what the Transformer's gives."""

    def unrounded(x: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return x, torch.ones(())

    monkeypatch.setattr(bit_linear, "_activations", unrounded)
    monkeypatch.setattr(bit_linear, "_weights", unrounded)
    source = read_source(teacher())
    given: Any = source.teacher()
    student: Any = build(student_values(source.values, Choices("matmul-free", kept)), seed=0)
    initialise(student, given, {})
    x = torch.randn(1, 5, 32)
    for old, new in zip(given.model.layers, student.model.layers, strict=True):
        y, old_y = new.attn_norm(x), old.input_layernorm(x)
        v = old.self_attn.v_proj(old_y)
        if kept:
            close(new.attn.q_proj(y), old.self_attn.q_proj(old_y))
            close(new.attn.k_proj(y), old.self_attn.k_proj(old_y))
            close(new.attn.v_proj(y), v)
        else:
            # Two heads share each of the two groups of eight values.
            repeated = v.unflatten(-1, (2, 8)).repeat_interleave(2, 2).flatten(2)
            close(new.attn.i_proj(y), repeated)
            close(new.attn.g_proj(y), old.self_attn.q_proj(old_y))
        y, old_y = new.mlp_norm(x), old.post_attention_layernorm(x)
        close(
            new.mlp.gate_proj(y), torch.cat([old.mlp.gate_proj(old_y), old.mlp.up_proj(old_y)], -1)
        )


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_new_norms_begin_with_the_size_that_they_take_away() -> None:
    source = read_source(teacher())
    given, ids = source.teacher(), torch.randint(0, 256, (2, 9))
    sizes = input_sizes(given, ids)
    assert len(sizes) == 4
    student = build(student_values(source.values, Choices("ternary")), seed=0)
    initialise(student, given, sizes)
    gain = student.state_dict()["model.layers.1.mlp.ffn_sub_norm.weight"]
    seen: list[torch.Tensor] = []

    def see(_: object, inputs: tuple[torch.Tensor]) -> None:
        seen.append(inputs[0])

    given.get_submodule("model.layers.1.mlp.down_proj").register_forward_pre_hook(see)
    given(ids)
    close(gain, seen[0].square().mean().sqrt().expand(48))


def test_kept_layers() -> None:
    assert kept_layers("every=4", 10) == (3, 7)
    assert kept_layers("layers=5,0", 6) == (0, 5)
    assert kept_layers(None, 6) == ()
    for wrong in ("every=0", "every=1,2", "every=7", "layers=6", "layers=", "some", "every=x"):
        with pytest.raises(MmcError, match="names no layers of 6"):
            kept_layers(wrong, 6)
