"""The element types of GGUF: blocks of numbers with scales, read as floats by the package gguf."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmc.errors import MmcError
from mmc.frontends.i2s import TAIL_BYTES, I2sLayout, read_i2s
from mmc.frontends.tensor_file import TensorLoader, refuse_nan

TERNARY = ("TQ1_0", "TQ2_0", "I2_S")
"""Types whose values are a scale times -1, 0 or 1; the scale of a TQ type is one a block of 256."""

I2_S = 36
"""The number that bitnet.cpp gives its type; ggml has none."""
_NOT_FLOATS = ("I8", "I16", "I32", "I64", "F64")


@dataclass(frozen=True)
class Blocks:
    """A type: each block of `elements` takes `bytes`; `tail` bytes follow the last."""

    number: int
    name: str
    elements: int
    bytes: int
    tail: int = 0

    def size(self, elements: int) -> int:
        return elements // self.elements * self.bytes + self.tail


def blocks_of(number: int, where: str) -> Blocks:
    """The type that ggml, or bitnet.cpp, numbers so; MmcError where it is none that we read."""
    if number == I2_S:
        return Blocks(number, "I2_S", 4, 1, TAIL_BYTES)
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise MmcError("reading it needs the package gguf", where, "pip install gguf") from error
    known = {kind.value: kind for kind in GGMLQuantizationType if kind.name not in _NOT_FLOATS}
    if number not in known:
        raise MmcError(f"type {number} is not known", where, "docs/gguf.md lists the types")
    return Blocks(number, known[number].name, *GGML_QUANT_SIZES[known[number]])


@dataclass
class BlockLoader:
    """Reads a tensor of blocks as float32."""

    loader: TensorLoader
    blocks: Blocks
    i2s: I2sLayout

    def __call__(self) -> np.ndarray:
        entry = self.loader.entry
        where = f"{self.loader.path}, tensor {entry.name!r}"
        shape = tuple(int(str(d)) for d in entry.type.shape)
        if self.blocks.number == I2_S:
            trits, scale = read_i2s(self.loader.raw(), shape, self.i2s, where)
            return trits.astype(np.float32) * scale
        array = self._dequantised(where).reshape(shape)
        refuse_nan(array, where)
        return array

    def _dequantised(self, where: str) -> np.ndarray:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        rows = self.loader.raw().reshape(-1, self.blocks.bytes)
        try:
            with np.errstate(all="ignore"):  # what is not a number is told by `refuse_nan`
                return dequantize(rows, GGMLQuantizationType(self.blocks.number))
        except NotImplementedError:
            raise MmcError(f"type {self.blocks.name} cannot be read", where) from None
