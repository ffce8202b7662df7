"""Perplexity against a direct computation, and its windows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmc.errors import MmcError
from mmc.perplexity import negative_log_likelihood, perplexity
from tests.end_to_end.compiled import model, token_ids


def direct(ids: np.ndarray, window: int) -> tuple[float, int]:
    """Mean of -log softmax over every token that is not the first of its window."""
    losses: list[float] = []
    for start in range(0, len(ids), window):
        part = ids[start : start + window]
        logits = model("tiny").forward(part[None])[0].astype(np.float64)
        for t in range(len(part) - 1):
            share = np.exp(logits[t]) / np.exp(logits[t]).sum()
            losses.append(-math.log(share[part[t + 1]]))
    return float(np.mean(losses)), len(losses)


@pytest.mark.parametrize("length", [2, 9, 10, 11, 12, 25])
@pytest.mark.parametrize("window", [2, 5, 10, 512])
def test_value_is_the_direct_one(length: int, window: int) -> None:
    ids = token_ids(17, 1, length)[0]
    found = perplexity(model("tiny"), ids, window)
    nats, count = direct(ids, window)
    assert found.tokens == count
    assert found.nats_per_token == pytest.approx(nats, rel=1e-9)
    assert found.perplexity == pytest.approx(math.exp(nats), rel=1e-9)


@pytest.mark.parametrize(("length", "window"), [(0, 8), (1, 8), (5, 1), (5, 0), (5, -3)])
def test_nothing_to_predict_is_refused(length: int, window: int) -> None:
    with pytest.raises(MmcError, match="at least two tokens"):
        perplexity(model("tiny"), token_ids(17, 1, length)[0], window)


def test_progress_ends_at_one() -> None:
    heard: list[float] = []
    perplexity(model("tiny"), token_ids(17, 1, 25)[0], 10, heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[1e4, 0.0, -1e4]], np.float32)
    assert negative_log_likelihood(logits, np.array([1]))[0] == pytest.approx(1e4)
