"""How far two arrays of floats are apart."""

from __future__ import annotations

import numpy as np


def relative_error(old: np.ndarray, new: np.ndarray) -> float:
    """The largest difference over the largest number; infinite where only one is a number."""
    a, b = old.astype(np.float64), new.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    if not (np.isfinite(a[~same]).all() and np.isfinite(b[~same]).all()):
        return float("inf")
    largest = np.abs(a[np.isfinite(a)]).max(initial=1e-30)
    return float(np.abs(np.where(same, 0, a - b)).max() / largest)
