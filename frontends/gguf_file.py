"""GGUF files, memory-mapped: nothing that the header says is believed before it is checked.

The format, little-endian: "GGUF", u32 version, u64 count of tensors, u64 count of pairs; pairs of
key, u32 kind and value; of each tensor its name, u32 axes, u64 sizes from the innermost, u32 type
and u64 offset; padding; the data.  A text is its u64 length and its bytes
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mmc.errors import MmcError
from mmc.frontends.base import Stored
from mmc.frontends.gguf_values import BlockLoader, Blocks, blocks_of
from mmc.frontends.i2s import I2sLayout, choose_layout
from mmc.frontends.tensor_file import Entry, TensorLoader, refuse_overlaps
from mmc.ir.types import DType, TensorType

_NUMBERS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?"))) | {10: "Q", 11: "q", 12: "d"}
"""Kind of a value to its code in `struct`; 8 is a text, 9 an array."""
_TEXT, _ARRAY = 8, 9

_VERSIONS = (2, 3)
_MOST_AXES = 4
_LOOK_AT = 8
"""Matrices from which the layout of I2_S is told."""

_PLAIN = {"F32": DType.F32, "F16": DType.F16, "BF16": DType.BF16}


@dataclass(frozen=True)
class GgufFile:
    """metadata: key to number, text or list.  types: name of a tensor to ggml's name of its type.

    Tensors of blocks load as float32.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    types: Mapping[str, str]


def read_gguf(path: Path, i2s: I2sLayout | None = None) -> GgufFile:
    """The file's metadata and tensors; i2s: the layout of its I2_S matrices, where it is known.

    Raises MmcError naming the file, and the key or the tensor where there is one.
    """
    metadata, infos, loaders = _read_head(path)
    types = {info.name: info.blocks.name for info in infos}
    if len(types) < len(infos):
        raise MmcError("two tensors have one name", str(path))
    if i2s is None:
        i2s = _i2s_layout([loaders[name] for name in types if types[name] == "I2_S"], path)
    stored: dict[str, Stored] = {}
    for info in infos:
        loader = loaders[info.name]
        load = loader if info.blocks.name in _PLAIN else BlockLoader(loader, info.blocks, i2s)
        stored[info.name] = Stored(info.name, loader.entry.type, load)
    return GgufFile(path, metadata, stored, types)


def _read_head(path: Path) -> tuple[dict[str, Any], list[_TensorInfo], dict[str, TensorLoader]]:
    """The metadata, what is said of each tensor, and what reads it."""
    try:
        if not path.stat().st_size:  # there would be nothing to map
            raise MmcError("is empty", str(path))
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(data, path)
            tensors, pairs = _counts(cursor)
            metadata = _metadata(cursor, pairs)
            infos = [_tensor_info(cursor) for _ in range(cursor.count(tensors, 24))]
            start = _aligned(cursor.at, metadata, path)
            entries = [info.entry(len(data) - start, path) for info in infos]
    except OSError as error:
        raise MmcError(f"cannot be read: {error.strerror}", str(path)) from error
    refuse_overlaps(entries, path)
    return metadata, infos, {entry.name: TensorLoader(path, start, entry) for entry in entries}


def _i2s_layout(loaders: list[TensorLoader], path: Path) -> I2sLayout:
    """The layout that a few matrices are in."""
    if not loaders:
        return "128"
    shapes = [tuple(int(str(d)) for d in loader.entry.type.shape) for loader in loaders]
    return choose_layout(
        [(loader.raw(), shape) for loader, shape in zip(loaders, shapes, strict=True)][:_LOOK_AT],
        str(path),
    )


@dataclass
class _Cursor:
    """Reads on from `at`; MmcError where the file ends before what it announces."""

    data: mmap.mmap
    path: Path
    at: int = 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise MmcError(f"it is cut short: byte {self.at} wants {size} more", str(self.path))
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, items: int, least: int) -> int:
        """`items`, which take `least` bytes each, if the file can hold as many."""
        if items * least > len(self.data) - self.at:
            raise MmcError(f"it is too short for {items} items at {self.at}", str(self.path))
        return items

    def text(self) -> str:
        raw = self.take(self.number("Q"))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise MmcError(f"a text at byte {self.at} is not UTF-8", str(self.path)) from error

    def value(self, kind: int, where: str) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _ARRAY:
            return self.array(where)
        raise MmcError(f"there is no kind {kind} of value", where)

    def array(self, where: str) -> list[Any]:
        kind, items = self.number("I"), self.number("Q")
        if kind == _TEXT:
            return [self.text() for _ in range(self.count(items, 8))]
        if kind not in _NUMBERS:
            raise MmcError(f"is an array of kind {kind}: not of numbers or texts", where)
        size = struct.calcsize(_NUMBERS[kind])
        raw = self.take(self.count(items, size) * size)
        return list(struct.unpack(f"<{items}{_NUMBERS[kind]}", raw))


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """How many tensors and pairs there are."""
    if cursor.take(4) != b"GGUF":
        raise MmcError("is not a GGUF file", str(cursor.path))
    version = cursor.number("I")
    if version not in _VERSIONS:
        hint = "big-endian files are not known" if version >= 1 << 16 else ""
        raise MmcError(f"has GGUF version {version}, known: 2 and 3", str(cursor.path), hint)
    return cursor.number("Q"), cursor.number("Q")


def _metadata(cursor: _Cursor, pairs: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(cursor.count(pairs, 12)):
        key = cursor.text()
        if key in found:
            raise MmcError(f"{key!r} comes twice", str(cursor.path))
        found[key] = cursor.value(cursor.number("I"), f"{cursor.path}, {key}")
    return found


@dataclass(frozen=True)
class _TensorInfo:
    name: str
    shape: tuple[int, ...]
    blocks: Blocks
    offset: int

    def entry(self, available: int, path: Path) -> Entry:
        """Where it lies; MmcError where that is outside the file."""
        where, blocks = f"{path}, tensor {self.name!r}", self.blocks
        elements, columns = prod(self.shape), self.shape[-1] if self.shape else 1
        if columns % blocks.elements:
            raise MmcError(f"{columns} columns are no whole {blocks.name} blocks", where)
        end = self.offset + blocks.size(elements)
        if end > available:
            raise MmcError(
                f"bytes {self.offset} to {end} are outside the file ({available} bytes)", where
            )
        dtype = _PLAIN.get(blocks.name, DType.F32)
        return Entry(self.name, TensorType(dtype, self.shape), self.offset, end)


def _tensor_info(cursor: _Cursor) -> _TensorInfo:
    name = cursor.text()
    where = f"{cursor.path}, tensor {name!r}"
    axes = cursor.number("I")
    if axes > _MOST_AXES:
        raise MmcError(f"has {axes} axes", where)
    sizes = [cursor.number("Q") for _ in range(axes)]
    if 0 in sizes:
        raise MmcError("has an axis of no elements", where)
    blocks = blocks_of(cursor.number("I"), where)
    return _TensorInfo(name, tuple(reversed(sizes)), blocks, cursor.number("Q"))


def _aligned(at: int, metadata: Mapping[str, Any], path: Path) -> int:
    """Where the data begins."""
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & alignment - 1:
        raise MmcError(f"'general.alignment' is {alignment!r}, not a power of two", str(path))
    return -(-at // alignment) * alignment
