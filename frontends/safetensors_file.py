"""Safetensors files, memory-mapped: the header is checked before a byte of a tensor is believed.

The format: u64 little-endian length of the header, JSON {name: {dtype, shape, data_offsets}}, bytes
(https://github.com/huggingface/safetensors)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeGuard, cast

from mmc.errors import MmcError
from mmc.frontends.base import Stored
from mmc.frontends.tensor_file import Entry, TensorLoader, refuse_overlaps
from mmc.ir.types import DType, TensorType

_DTYPES = {
    "F32": DType.F32,
    "F16": DType.F16,
    "BF16": DType.BF16,
    "I8": DType.I8,
    "U8": DType.U8,
    "I32": DType.I32,
    "I64": DType.I64,
    "BOOL": DType.BOOL,
}
_LONGEST_HEADER = 100_000_000
"""The format's own limit, in bytes."""


def read_file(path: Path) -> dict[str, Stored]:
    """Every tensor of the file by name; its bytes are read when its `load` is called.

    Raises MmcError naming the file, and the tensor where there is one.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise MmcError("it is cut short or not a safetensors file", str(path))
            header = _parse_header(file.read(length), path)
    except OSError as error:
        raise MmcError(f"cannot read: {error.strerror}", str(path)) from error
    start = 8 + length
    entries = [_entry(n, spec, size - start, path) for n, spec in header.items()]
    refuse_overlaps(entries, path)
    return {e.name: Stored(e.name, e.type, TensorLoader(path, start, e)) for e in entries}


def _parse_header(text: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise MmcError(f"its header is not JSON: {error}", str(path)) from error
    if not isinstance(header, dict):
        raise MmcError("its header is not a JSON object", str(path))
    tensors = cast(dict[str, Any], header)
    tensors.pop("__metadata__", None)
    return tensors


def _entry(name: str, spec: Any, available: int, path: Path) -> Entry:
    where = f"{path}, tensor {name!r}"
    if not isinstance(spec, dict):
        raise MmcError("its header entry is not an object", where)
    fields = cast(Mapping[str, Any], spec)
    code, shape, offsets = (fields.get(k) for k in ("dtype", "shape", "data_offsets"))
    if not isinstance(code, str) or code not in _DTYPES:
        raise MmcError(f"dtype {code!r} is not supported", where, f"known: {', '.join(_DTYPES)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise MmcError("its shape or offsets are not lists of whole numbers", where)
    declared = TensorType(_DTYPES[code], tuple(shape))
    begin, end = offsets
    if not begin <= end <= available:
        raise MmcError(f"bytes {begin} to {end} are outside the file ({available} bytes)", where)
    wanted = prod(shape) * declared.dtype.numpy.itemsize
    if end - begin != wanted:
        raise MmcError(f"{declared} needs {wanted} bytes, the file has {end - begin}", where)
    return Entry(name, declared, begin, end)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    if not isinstance(value, list):
        return False
    return all(type(i) is int and i >= 0 for i in cast(list[Any], value))
