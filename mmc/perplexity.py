"""Token perplexity of a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmc.errors import MmcError
from mmc.runtime import Model


@dataclass(frozen=True)
class Perplexity:
    """`nats_per_token` is the mean negative log-likelihood; perplexity is its exponential.

    Token perplexity: it depends on the tokenizer and does not compare with word perplexity.
    """

    nats_per_token: float
    tokens: int
    window: int

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.nats_per_token))

    def __str__(self) -> str:
        return (
            f"token perplexity {self.perplexity:.3f} ({self.nats_per_token:.4f} nats per token) "
            f"over {self.tokens} predicted tokens, windows of {self.window} tokens, "
            "each from an empty state"
        )


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-ln p(target) [...] in float64 for logits [..., V] and targets [...]."""
    wide = logits.astype(np.float64)
    top = wide.max(-1, keepdims=True)
    norm = np.log(np.exp(wide - top).sum(-1)) + top[..., 0]
    return norm - np.take_along_axis(wide, targets[..., None], -1)[..., 0]


def perplexity(
    model: Model,
    ids: np.ndarray,
    window: int = 512,
    progress: Callable[[float], None] = lambda _: None,
) -> Perplexity:
    """Cut ids [N] into windows without overlap; all but the first token of each are predicted."""
    if window < 2 or len(ids) < 2:
        raise MmcError(
            f"needs at least two tokens a window: window {window}, text of {len(ids)} tokens"
        )
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, window):
        part = ids[None, start : start + window]
        if part.shape[1] < 2:
            break
        logits = np.asarray(model.forward(part))
        total += float(negative_log_likelihood(logits[0, :-1], part[0, 1:]).sum())
        count += part.shape[1] - 1
        progress(min(1.0, (start + window) / len(ids)))
    return Perplexity(total / count, count, window)
