"""What files of tensors have in common: where each lies, and reading it through a memory map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmc.errors import MmcError
from mmc.ir.types import TensorType


@dataclass(frozen=True)
class Entry:
    """A tensor's place: bytes `begin` to `end` of the file's data."""

    name: str
    type: TensorType
    begin: int
    end: int


def refuse_overlaps(entries: Iterable[Entry], path: Path) -> None:
    """Raise MmcError where two tensors share bytes."""
    last: Entry | None = None
    for entry in sorted(entries, key=lambda e: (e.begin, e.end)):
        if last and entry.begin < last.end:
            raise MmcError(f"tensors {last.name!r} and {entry.name!r} overlap", str(path))
        last = entry


@dataclass
class TensorLoader:
    """Reads one tensor; the first time, also checks that every element is a number."""

    path: Path
    start: int
    entry: Entry
    checked: bool = False

    def __call__(self) -> np.ndarray:
        entry = self.entry
        shape = tuple(int(str(d)) for d in entry.type.shape)
        if entry.begin == entry.end:
            return np.zeros(shape, entry.type.dtype.numpy)
        array = self.raw().view(entry.type.dtype.numpy).reshape(shape)
        if not self.checked and entry.type.dtype.is_float:
            refuse_nan(array, f"{self.path}, tensor {entry.name!r}")
        self.checked = True
        return array

    def raw(self) -> np.ndarray:
        """The bytes."""
        entry = self.entry
        try:
            size = entry.end - entry.begin
            raw = np.memmap(self.path, np.uint8, "r", self.start + entry.begin, (size,))
        except (OSError, ValueError) as error:  # it was whole when the header was read
            raise MmcError(f"cannot read tensor {entry.name!r}: {error}", str(self.path)) from error
        # A plain view: np.memmap as a class slows every later slice down.
        return raw.view(np.ndarray)


def refuse_nan(array: np.ndarray, where: str) -> None:
    """Raise MmcError if an element is NaN or infinite; 16-bit floats are told by their bits."""
    if array.dtype.itemsize == 2:
        mask = np.uint16(0x7C00 if array.dtype == np.float16 else 0x7F80)
        bad = (array.view(np.uint16) & mask) == mask
    else:
        bad = ~np.isfinite(array)
    if count := int(np.count_nonzero(bad)):
        raise MmcError(f"{count} of {array.size} elements are NaN or infinite", where)
