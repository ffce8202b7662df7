"""The weights of an artefact: one safetensors file, mapped and used where it lies.

Every tensor starts at a multiple of 64 bytes from the start of the file, so that kernels may use
aligned vector loads.  The format allows no gaps between tensors; where a tensor does not end at
such a multiple, a tensor named `pad.N` follows.  Packed ternary matrices are stored as their
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmc.errors import MmcError
from mmc.ir.ops.source import Weight
from mmc.ir.statistics import stored_bytes
from mmc.ir.types import DType, TensorType, static_shape
from mmc.targets.layout import ALIGNMENT

_SAFETENSORS_NAME = {
    DType.F32: "F32", DType.F16: "F16", DType.BF16: "BF16", DType.I8: "I8", DType.U8: "U8",
    DType.I16: "I16", DType.I32: "I32", DType.I64: "I64", DType.BOOL: "BOOL", DType.TERNARY: "I8",
}  # fmt: skip


def write_weights(path: Path, weights: Sequence[Weight], tensors: Mapping[str, np.ndarray]) -> int:
    """Write the tensors, holding one at a time; returns their bytes without padding."""
    header: dict[str, object] = {}
    offset = total = 0
    for weight in weights:
        size = stored_bytes(weight.type)
        header[weight.name] = _entry(weight.type, offset, size)
        offset, total = offset + size, total + size
        if pad := -size % ALIGNMENT:
            header[f"pad.{len(header)}"] = _entry(TensorType(DType.U8, (pad,)), offset, pad)
            offset += pad
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for weight in weights:
            content = np.ascontiguousarray(tensors[weight.name]).reshape(-1).view(np.uint8)
            file.write(content.data)
            file.write(bytes(-content.size % ALIGNMENT))
    return total


def _entry(declared: TensorType, offset: int, size: int) -> dict[str, object]:
    packed = declared.dtype.layout is not None
    shape = [size] if packed else list(declared.shape)
    dtype = "U8" if packed else _SAFETENSORS_NAME[declared.dtype]
    return {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}


@dataclass(frozen=True)
class WeightsFile:
    """The mapped file: its bytes, and where each tensor lies in them."""

    bytes: np.ndarray
    offsets: Mapping[str, int]

    @staticmethod
    def open(path: Path, copy: np.ndarray | None = None) -> WeightsFile:
        """Map the file, or use a copy of it; MmcError where `write_weights` did not write it."""
        content = np.memmap(path, np.uint8, mode="c") if copy is None else copy
        length = int.from_bytes(content[:8].tobytes(), "little")
        if 8 + length > content.size:
            raise MmcError("is truncated", str(path), "compile again")
        header = json.loads(content[8 : 8 + length].tobytes())
        offsets = {name: 8 + length + e["data_offsets"][0] for name, e in header.items()}
        return WeightsFile(content, offsets)

    def array(self, weight: Weight) -> np.ndarray:
        """The tensor that a weight names, where it lies."""
        start = self.offsets[weight.name]
        raw = self.bytes[start : start + stored_bytes(weight.type)]
        if weight.type.dtype.layout is not None:
            return raw
        return raw.view(weight.type.dtype.numpy).reshape(static_shape(weight.type.shape))
