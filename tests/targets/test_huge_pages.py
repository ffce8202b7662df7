"""Weights in huge pages: the same bytes, or none where they are switched off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmc.targets.cpu import huge_pages
from mmc.targets.cpu.huge_pages import PAGE_BYTES, SWITCH, huge_memory, in_huge_pages


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the system says of huge pages."""
    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_STATE", path)
    return path


def weights(folder: Path, size: int) -> Path:
    path = folder / "weights"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes())
    return path


def test_a_copy_has_the_bytes_of_the_file(tmp_path: Path, state: Path) -> None:
    path = weights(tmp_path, 2 * PAGE_BYTES + 4711)
    copy = in_huge_pages(path)
    assert copy is not None
    assert copy.tobytes() == path.read_bytes()
    assert copy.ctypes.data % PAGE_BYTES == 0


def test_no_copy_where_it_does_not_pay_or_is_off(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = weights(tmp_path, PAGE_BYTES)
    assert in_huge_pages(large) is not None
    monkeypatch.setenv(SWITCH, "0")
    assert in_huge_pages(large) is None
    monkeypatch.delenv(SWITCH)
    state.write_text("always madvise [never]\n")
    assert in_huge_pages(large) is None
    state.unlink()
    assert in_huge_pages(large) is None


def test_a_small_file_is_mapped(tmp_path: Path, state: Path) -> None:
    assert in_huge_pages(weights(tmp_path, PAGE_BYTES - 1)) is None


def test_memory_is_zero_and_may_be_written() -> None:
    memory = huge_memory(PAGE_BYTES + 1)
    assert memory.size == PAGE_BYTES + 1
    assert not memory.any()
    memory[:] = 1
