"""Weights in huge pages: a processor that streams them looks fewer addresses up.

A mapped file lies in pages of 4 KiB on most file systems.  An anonymous copy may lie in pages of
2 MiB, where the system allows them; the file is then not mapped, so that a process holds its
weights once either way.  A mapping is shared by all processes that run the same artefact, a copy
is not: MMC_HUGE_PAGES=0 keeps the mapping.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

import numpy as np

SWITCH = "MMC_HUGE_PAGES"
"""Environment variable: 0 keeps the weights in the mapped file."""

PAGE_BYTES = 2 << 20
_STATE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def in_huge_pages(path: Path) -> np.ndarray | None:
    """The bytes of a file in huge pages; None where they are off or the file is small."""
    size = path.stat().st_size
    if os.environ.get(SWITCH) == "0" or not _allowed() or size < PAGE_BYTES:
        return None
    copy = huge_memory(size)
    with path.open("rb", buffering=0) as file:
        done = 0
        while done < size and (count := file.readinto(copy[done:].data)):
            done += count
    return copy if done == size else None


def huge_memory(size: int) -> np.ndarray:
    """Zero bytes that lie in huge pages where the system gives them."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory has no huge pages
    memory = mmap.mmap(-1, size + PAGE_BYTES, private)
    with contextlib.suppress(OSError):  # a system without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % PAGE_BYTES
    return whole[start : start + size]


def _allowed() -> bool:
    return _STATE.is_file() and "[never]" not in _STATE.read_text()
