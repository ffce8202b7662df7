"""A traced Transformer whose layers were converted, against the trainable models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mmc
from mmc.convert.rewrite import Choices, build, initialise, student_values
from mmc.driver import CompileOptions, compile_model
from mmc.errors import MmcError
from mmc.frontends.base import Imported
from mmc.frontends.checkpoint import load
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph
from mmc.ir.intern import own_world
from mmc.nn import MatMulFreeLM, Transformer
from mmc.passes.convert_layers import ConvertLayers
from mmc.passes.manager import PassManager
from tests.convert.tiny import write_model

LAYERS = 2
CHANGES: dict[str, Any] = {"num_hidden_layers": LAYERS, "tie_word_embeddings": False}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Transformer]:
    folder = tmp_path_factory.mktemp("convert") / "llama"
    module = write_model(folder, CHANGES)
    for p in module.parameters():
        p.data = 10 * p if p.ndim == 2 else 1 + 0.2 * torch.randn(p.shape)
    for layer in module.model.layers:  # gate and up are one matrix there: one scale for both
        mlp = cast(Any, layer).mlp
        mlp.up_proj.weight.data = mlp.gate_proj.weight.data.flip(0, 1)
    save_file(module.tensors(), folder / "model.safetensors")
    return folder, module


@pytest.fixture(autouse=True)
def own_names() -> Iterator[None]:
    with own_world():
        yield


def converted(folder: Path, **options: Any) -> Imported:
    found = load(folder, context=40)
    graph = PassManager(found.tensors).run(found.graph, [ConvertLayers(**options)])
    return replace(found, graph=graph)


def interpreted(source: Imported, pieces: list[np.ndarray]) -> np.ndarray:
    """The logits of the pieces of a text, one after the other, from empty states."""
    graph: Graph = source.graph
    batch = len(pieces[0])
    inputs = {op.name: op.type for op in graph.inputs if op.name not in ("ids", "lengths")}
    state = {
        name: np.zeros((batch, *cast(tuple[int, ...], kind.shape[1:])), kind.dtype.numpy)
        for name, kind in inputs.items()
    }
    logits: list[np.ndarray] = []
    for ids in pieces:
        lengths = np.full(batch, ids.shape[1])
        made = evaluate(graph, {"ids": ids, "lengths": lengths, **state}, source.tensors)
        logits.append(made.pop("logits"))
        assert made.keys() == state.keys()
        state = made
    return np.concatenate(logits, 1)


def trainable(given: tuple[Path, Transformer], choices: Choices) -> np.ndarray:
    """The logits of what `mmc convert` begins with, its forget gates made from the keys."""
    folder, teacher = given
    student = build(student_values(json.loads((folder / "config.json").read_text()), choices), 0)
    initialise(student.requires_grad_(False), teacher, {})
    if isinstance(student, MatMulFreeLM):
        for n, layer in enumerate(teacher.model.layers):
            if n not in choices.kept:
                keys = cast(Any, layer).self_attn.k_proj.weight.unflatten(0, (2, 8))
                mixer = cast(Any, student.model.layers[n]).attn
                mixer.f_proj.weight.copy_(keys.repeat_interleave(2, 0).flatten(0, 1))
    with torch.no_grad():
        return student(torch.from_numpy(IDS)).numpy()


IDS = np.random.default_rng(0).integers(0, 256, (2, 13))


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Single activations may round the other way, and what follows them moves a little."""
    error = np.abs(found - wanted).max(-1) / np.abs(wanted).max()
    assert error.max() <= 0.05
    assert (error <= 1e-5).mean() >= 0.8


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        ({"to": "ternary"}, Choices("ternary")),
        ({}, Choices("matmul-free")),
        ({"gate_order": "paper"}, Choices("matmul-free", (), "paper")),
        ({"gate_order": "hgrn"}, Choices("matmul-free", (), "hgrn")),
        ({"keep_attention": "every=2"}, Choices("matmul-free", (1,))),
        ({"keep_attention": "layers=0,1"}, Choices("matmul-free", (0, 1))),
    ],
)
def test_is_what_convert_begins_with(
    given: tuple[Path, Transformer], options: dict[str, str], choices: Choices
) -> None:
    close(interpreted(converted(given[0], **options), [IDS]), trainable(given, choices))


@pytest.mark.parametrize("keep", ["", "every=2"])
def test_the_memory_goes_on(given: tuple[Path, Transformer], keep: str) -> None:
    """A text in pieces is the text at once; no cache and no position is left without attention."""
    source = converted(given[0], keep_attention=keep)
    states = {name.rpartition(".")[2] for name in source.graph.states}
    assert states == ({"h", "keys", "values", "position"} if keep else {"h"})
    pieces = [IDS[:, :5], IDS[:, 5:6], IDS[:, 6:]]
    np.testing.assert_allclose(
        interpreted(source, pieces), interpreted(source, [IDS]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("options", "dense"),
    [
        ({"to": "ternary"}, ["lm_head", "model.layers.0.self_attn", "model.layers.1.self_attn"]),
        ({"keep_attention": "every=2"}, ["model.layers.1.self_attn"]),
        ({}, []),
    ],
)
def test_runs_on_the_cpu(
    given: tuple[Path, Transformer], options: dict[str, str], dense: list[str], tmp_path: Path
) -> None:
    """The compiler finds every matrix ternary again, and the target says what the graph says."""
    source = converted(given[0], **options)
    made = compile_model(
        source, tmp_path / "out", CompileOptions("cpu", mcpu="native"), lambda _, __: None
    )
    layers = json.loads((made.path / "manifest.json").read_text())["layers"]
    assert sorted(layer["name"] for layer in layers if not layer["ternary"]) == dense
    model = mmc.load(made.path)
    assert isinstance(model, mmc.Model)
    close(model.forward(IDS), interpreted(source, [IDS]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "dense"}, "'dense' is not known"),
        ({"gate_order": "other"}, "'other' is not known"),
        ({"to": "ternary", "keep_attention": "every=2"}, "ternary keeps all attention"),
        ({"keep_attention": "layers=2"}, "names no layers of 2"),
    ],
)
def test_refusals(given: tuple[Path, Transformer], options: dict[str, str], message: str) -> None:
    with pytest.raises(MmcError, match=message):
        converted(given[0], **options)
