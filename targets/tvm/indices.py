# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Which elements of a value are meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Index:
    """`axes` has an entry per axis of the value; `lanes` elements along the last are meant.

    in_row: it belongs to the row that is being computed, so that what was kept of it may be used.
    """

    axes: tuple[Any, ...]
    lanes: int = 1
    in_row: bool = False
