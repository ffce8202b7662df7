"""`mmc inspect`: the facts about the example and about its artefact."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from mmc.inspection import inspect_source, render_inspection
from tests.end_to_end.compiled import EXAMPLE, artifact


@cache
def facts() -> dict[str, Any]:
    return inspect_source(EXAMPLE)


def test_example_is_free_of_matmuls() -> None:
    layers = facts()["layers"]
    assert len(layers) == 37
    assert all(layer["ternary"] for layer in layers)
    assert facts()["multiplications_per_token"]["dense"] == 0
    count = sum(layer["rows"] * layer["columns"] for layer in layers)
    assert facts()["multiplications_per_token"]["replaced_by_additions"] == count == 7_208_960


def test_example_has_six_linear_memories() -> None:
    assert [found["linear"] for found in facts()["recurrences"]] == [True] * 6
    assert {found["state"] for found in facts()["recurrences"]} == {"f32[B, 256]"}


def test_lower_bounds_are_folded() -> None:
    assert [name for name in facts()["folded"] if "lower_bounds" in name]


def test_text_says_so() -> None:
    text = render_inspection(facts())
    assert "37 of 37 linear layers are ternary; 0 dense MatMuls are left" in text
    assert "6 recurrences" in text
    assert "lower_bounds" in text


def test_layers_know_their_quantiser() -> None:
    by = {json.dumps(layer["quantiser"], sort_keys=True) for layer in facts()["layers"]}
    assert len(by) == 1
    assert json.loads(by.pop())["rounding"] == "half_away"


def test_artefact_tells_what_its_manifest_tells() -> None:
    folder = artifact("example")
    found = inspect_source(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert found["layers"] == manifest["layers"]
    assert found["sizes"]["state_bytes_per_sequence"] == 6 * 256 * 4
    assert "37 of 37" in render_inspection(found)


def test_dense_module_says_why(tmp_path: Path) -> None:
    import torch

    import mmc

    out = mmc.compile(torch.nn.Linear(3, 4), (torch.ones(2, 3),), out=tmp_path / "out").path
    text = render_inspection(inspect_source(out))
    assert "0 of 1 linear layers are ternary; 1 dense MatMuls are left" in text
    assert "dense: " in text
