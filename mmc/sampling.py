"""Choosing the next token from logits."""

from __future__ import annotations

import numpy as np

from mmc.errors import MmcError


class Sampler:
    """Greedy at temperature 0, else nucleus sampling (arXiv:1904.09751) with a seed."""

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> None:
        if not temperature >= 0 or not np.isfinite(temperature):
            raise MmcError(f"temperature must be 0 or more, not {temperature}")
        if not 0 < top_p <= 1:
            raise MmcError(f"top_p must be above 0 and at most 1, not {top_p}")
        self.temperature, self.top_p = temperature, top_p
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Token ids int64 [B] for logits [B, V]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        return np.array([self._sample(row) for row in logits.astype(np.float64)], np.int64)

    def _sample(self, row: np.ndarray) -> int:
        scaled: np.ndarray = np.exp((row - row.max()) / self.temperature)
        order = np.argsort(-scaled, kind="stable")
        mass = np.cumsum(scaled[order]) / scaled.sum()
        kept = order[: int(np.searchsorted(mass, self.top_p)) + 1]
        weights: np.ndarray = np.cumsum(scaled[kept])
        drawn = self._random.random() * float(weights[-1])
        return int(kept[min(int(np.searchsorted(weights, drawn)), len(kept) - 1)])
