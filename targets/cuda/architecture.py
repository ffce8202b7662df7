"""GPU architectures: what code is made for, and which of it a device runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mmc.errors import MmcError

DEFAULT = ("sm_80", "sm_90a")
"""Ampere and newer run the first; Hopper its own."""

OLDEST = 80
"""int8 tensor cores with fragments of 16 x 32, from Ampere on."""

MOST_COLUMNS = (1 << 18) - 1
"""Of a ternary matrix: its sums are made 64 times as large, and 64 * 128 k < 2^31."""

LETTERED = 90
"""From here on a letter behind the number asks for what only that generation has."""


def require(name: str, known: Sequence[int]) -> None:
    """Raise MmcError unless code can be made for the architecture; `known` to the compiler."""
    found = re.fullmatch(r"sm_(\d{2,3})([af]?)", name)
    if found and int(found[1]) < OLDEST:
        raise MmcError(f"{name} is older than sm_{OLDEST}", "--target cuda", "the oldest that runs")
    if found is None or int(found[1]) not in known or (found[2] and int(found[1]) < LETTERED):
        listed = ", ".join(f"sm_{number}" for number in known if number >= OLDEST)
        raise MmcError(f"{name!r} is no GPU architecture", "--target cuda", f"there are {listed}")


def best(names: Iterable[str], capability: tuple[int, int]) -> str | None:
    """The code that a device runs best; None where it runs none.

    Code runs on devices of its own generation that are at least as new; with a letter behind its
    number only on just that one.
    """
    major, minor = capability
    usable = [name for name in names if _runs(name, major, minor)]
    return max(usable, key=lambda name: (_number(name), name), default=None)


def _runs(name: str, major: int, minor: int) -> bool:
    own_major, own_minor = divmod(_number(name), 10)
    if name[-1] == "a":
        return (own_major, own_minor) == (major, minor)
    return own_major == major and own_minor <= minor


def _number(name: str) -> int:
    return int(name.removeprefix("sm_").rstrip("af"))
