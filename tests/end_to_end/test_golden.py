"""The example model against the logits of its original PyTorch code (tests/data/make_golden.py)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmc.perplexity import negative_log_likelihood
from tests.end_to_end.compiled import GOLDEN, model

TARGETS = ("cpu", "reference")


@cache
def golden() -> dict[str, np.ndarray]:
    return load_file(GOLDEN)


@cache
def logits(target: str) -> np.ndarray:
    """f32 [128, V] for the golden tokens."""
    return model("example", target).forward(golden()["input_ids"][None])[0]


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest error over the largest number."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_interpreter_gives_the_first_positions() -> None:
    """Later positions may differ where an activation rounds the other way: these have none."""
    assert difference(logits("reference")[:4], golden()["logits"][:4]) <= 1e-5


@pytest.mark.parametrize("target", TARGETS)
def test_stored_positions(target: str) -> None:
    for position, wanted in zip(golden()["positions"], golden()["logits"], strict=True):
        assert difference(logits(target)[position], wanted) <= 0.02, position


@pytest.mark.parametrize("target", TARGETS)
def test_likeliest_tokens_agree(target: str) -> None:
    assert (logits(target).argmax(-1) == golden()["argmax"]).mean() >= 0.99


@pytest.mark.parametrize("target", TARGETS)
def test_mean_negative_log_likelihood(target: str) -> None:
    ids = golden()["input_ids"]
    found = negative_log_likelihood(logits(target)[:-1], ids[1:])
    assert abs(found.mean() - golden()["nll"].mean()) <= 0.005
