"""Damaged GGUF files: one clear error, never another exception, never a hang."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmc.errors import MmcError
from mmc.frontends.gguf_file import read_gguf
from mmc.frontends.models.gguf_checkpoint import open_gguf
from tests.frontends.gguf_files import masters, write
from tests.frontends.vocabularies import bpe_keys

BOUNDED = settings(
    max_examples=200, deadline=2000, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
TYPES = {"attn_q": "TQ1_0", "attn_k": "Q4_0", "ffn_up": "I2_S", "ffn_down": "Q8_0"}


@cache
def whole() -> bytes:
    """The head of a model's file, with little of its data."""
    types = {f"blk.0.{name}.weight": kind for name, kind in TYPES.items()}
    kept = {n: a for n, a in masters(True).items() if n in types or "token_embd" in n}
    keys = {f"tokenizer.ggml.{key}": value for key, value in bpe_keys().items()}
    path = Path(tempfile.mkdtemp()) / "m.gguf"
    return write(path, "llama", kept, types, keys).read_bytes()


@pytest.fixture(scope="module", autouse=True)
def made_before() -> None:
    """Their deadline is for the damaged input alone."""
    read(whole(), Path(tempfile.mkdtemp()) / "m.gguf")


def read(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with suppress(MmcError):
        for stored in read_gguf(path).tensors.values():
            stored.load()
    with suppress(MmcError):
        checkpoint = open_gguf(path)
        if checkpoint.tokenizer is not None:
            checkpoint.tokenizer()
        for stored in checkpoint.store.values():
            with suppress(MmcError):
                stored.load()


DAMAGE = st.sampled_from(
    [b"\x00", b"\xff", b"\xff" * 8, b"\x00" * 8, b"\x7f" * 4, b"\x01", b"\x24\x00\x00\x00", b"\x09"]
)


@BOUNDED
@given(st.lists(st.tuples(st.floats(0, 1), DAMAGE), min_size=1, max_size=4), st.booleans())
def test_bytes_that_changed(damage: list[tuple[float, bytes]], in_head: bool) -> None:
    """In the header and the infos of tensors, which are the first and last of the metadata."""
    raw = bytearray(whole())
    end = raw.index(b"tokenizer.ggml.model") if in_head else len(raw)
    for place, new in damage:
        at = int(place * (end - 8))
        raw[at : at + len(new)] = new
    read(bytes(raw), Path(tempfile.gettempdir()) / "mmc-fuzz.gguf")


@BOUNDED
@given(st.floats(0, 1), DAMAGE)
def test_infos_of_tensors_that_changed(place: float, new: bytes) -> None:
    raw = bytearray(whole())
    begin = raw.index(b"token_embd.weight")
    at = begin + int(place * 330)
    raw[at : at + len(new)] = new
    read(bytes(raw), Path(tempfile.gettempdir()) / "mmc-fuzz.gguf")


@BOUNDED
@given(st.floats(0, 1))
def test_files_that_end_early(share: float) -> None:
    read(whole()[: int(share * len(whole()))], Path(tempfile.gettempdir()) / "mmc-fuzz.gguf")


def test_the_file_is_whole() -> None:
    path = Path(tempfile.mkdtemp()) / "m.gguf"
    path.write_bytes(whole())
    found = read_gguf(path)
    assert {found.types[f"blk.0.{name}.weight"] for name in TYPES} == set(TYPES.values())
    assert all(np.isfinite(stored.load()).all() for stored in found.tensors.values())
