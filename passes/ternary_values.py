"""Is a matrix a scale times {-1, 0, 1}?  Decided by its values, never by its name.

A straight-through estimator that was folded before we saw the matrix leaves it up to a per cent off
(notes on bf16: 0.76 %), so values within `TOLERANCE` of the scale count; the deviation is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-2
GROUPS = (256, 128, 64, 32)


@dataclass(frozen=True)
class TernaryMatrix:
    """trits: int8 [N, K].  scale: float32 [] (tensor), [N] (row) or [N, K / group] (group)."""

    trits: np.ndarray
    scale: np.ndarray
    granularity: str
    deviation: float
    zeros: float

    @property
    def kind(self) -> str:
        return "ternary" if self.zeros else "binary"

    def __str__(self) -> str:
        exact = "exact" if self.deviation == 0 else f"within {self.deviation:.1e}"
        return f"{self.kind}, one scale per {self.granularity}, {self.zeros:.0%} zeros, {exact}"


def find_ternary(w: np.ndarray) -> TernaryMatrix | str:
    """The trits and scales of w [N, K] float32, or why it is not ternary."""
    size = np.abs(w)
    if not size.any():
        return "is all zeros"
    for granularity, group in _granularities(w.shape[1]):
        found = _try(w, size, granularity, group)
        if found is not None:
            return _guard(found)
    if not np.isfinite(size).all():
        return "holds NaN or infinity"
    return "dense: its values are not a scale times {-1, 0, 1} per tensor, row or group"


def _granularities(columns: int) -> list[tuple[str, int]]:
    groups = [(f"group of {g}", g) for g in GROUPS if columns % g == 0 and columns > g]
    return [("tensor", 0), ("row", columns), *groups]


def _try(w: np.ndarray, size: np.ndarray, granularity: str, group: int) -> TernaryMatrix | None:
    n, k = w.shape
    blocks = size.reshape(1, n * k) if group == 0 else size.reshape(n * (k // group), group)
    probe = blocks[:4, :4096]  # a dense matrix shows itself at once
    # Measured from the largest, what lies TOLERANCE above and below the scale is twice as far off;
    # `not ... <=`: NaN fails as well.
    if not _deviation(probe, probe.max(1, keepdims=True)) <= 2.1 * TOLERANCE:
        return None
    scale = blocks.max(1, keepdims=True)
    on = blocks > scale / 2
    deviation = _deviation(blocks, scale)
    if 0 < deviation <= 2.1 * TOLERANCE:  # an estimate that averages the noise out
        count = np.maximum(on.sum(1, keepdims=True), 1)
        scale = ((blocks * on).sum(1, keepdims=True, dtype=np.float64) / count).astype(np.float32)
        deviation = _deviation(blocks, scale)
    if not deviation <= TOLERANCE:
        return None
    trits = (np.sign(w) * on.reshape(n, k)).astype(np.int8)
    shape = {0: (), k: (n,)}.get(group, (n, k // max(group, 1)))
    zeros = 1 - np.count_nonzero(on) / on.size
    return TernaryMatrix(trits, scale.reshape(shape), granularity, deviation, zeros)


def _deviation(blocks: np.ndarray, scale: np.ndarray) -> float:
    """The largest distance to 0 or the scale, over the scale."""
    with np.errstate(invalid="ignore"):
        off = np.minimum(blocks, np.abs(blocks - scale)).max(1)
        return float((off / np.where(scale[:, 0] > 0, scale[:, 0], 1)).max())


def _guard(found: TernaryMatrix) -> TernaryMatrix | str:
    """Constants, identities and one-hot matrices pass the value test and are not ternary layers."""
    signs = {int(v) for v in np.unique(found.trits)}
    if len(signs) == 1:
        return "constant: every weight is the same"
    busy = np.count_nonzero(found.trits, axis=1)
    if busy.max() <= 1:
        return "one non-zero weight a row at most: a selection or a diagonal, not a ternary layer"
    if signs in ({0, 1}, {0, -1}):
        return "one sign only: a mask, not a ternary layer"
    if (found.trits == found.trits[0]).all():
        return "every row is the same"
    return found
