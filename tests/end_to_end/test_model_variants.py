"""Models of odd shapes and other forms: compiled for the CPU against the graph as imported."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.end_to_end.compiled import VARIANTS, artifact, model, source_logits, token_ids

CHECKED = [name for name in VARIANTS if name != "tied"]


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_the_imported_graph(name: str) -> None:
    """An activation may round the other way (then 0.02); most positions have none (then 1e-5)."""
    ids = token_ids(model(name).vocab_size, 2, 17)
    found, wanted = model(name).forward(ids), source_logits(name, ids)
    error = np.abs(found - wanted).max(-1) / np.abs(wanted).max()
    assert error.max() <= 0.02
    assert (error <= 1e-5).mean() >= 0.8


@pytest.mark.parametrize("name", CHECKED)
def test_every_kernel_is_the_interpreters(name: str) -> None:
    """The strict comparison, kernel by kernel on equal inputs, that `--check` wrote down."""
    record = json.loads((artifact(name) / "certificate.json").read_text())["target"]
    assert record["kernels"] > 0
    assert record["sums"] > 0
    assert record["failures"] == []
    assert record["float_error"] <= 1e-5
    assert len(record["flips"]) <= 1e-3 * record["activations"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_and_memory_is_recognised(name: str) -> None:
    manifest = json.loads((artifact(name) / "manifest.json").read_text())
    assert [layer["name"] for layer in manifest["layers"] if not layer["ternary"]] == []
    assert [found["linear"] for found in manifest["recurrences"]] == [True, True]
