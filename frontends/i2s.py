"""I2_S, bitnet.cpp's ternary type: two bits a trit, then a float32 scale and 28 bytes of padding.

A code is a trit plus one; the first of four is in the highest bits of a byte.  Which four share a
byte is said nowhere in the file: it depends on who wrote it
(https://github.com/microsoft/BitNet, src/ggml-bitnet-mad.cpp, quantize_i2_s):

    "128"   columns i, 32 + i, 64 + i, 96 + i of each 128     Python converters, x86
    "64"    columns i, 16 + i, 32 + i, 48 + i of each 64      ARM
    "rows"  rows 4r .. 4r + 3 of column i                     x86, built without ACT_PARALLEL
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from mmc.errors import MmcError

I2sLayout = Literal["128", "64", "rows"]
I2S_LAYOUTS: tuple[I2sLayout, ...] = get_args(I2sLayout)

TAIL_BYTES = 32
_CLEAR = 20.0
"""Unevenness that chance does not make: a sum of standard normal numbers, a few for each matrix."""

_log = logging.getLogger(__name__)


def layout_named(name: str) -> I2sLayout:
    """The layout of that name; raise MmcError where there is none."""
    for layout in I2S_LAYOUTS:
        if layout == name:
            return layout
    raise MmcError(f"no layout {name!r}", "--i2s", f"one of {', '.join(I2S_LAYOUTS)}")


def read_i2s(
    raw: np.ndarray, shape: tuple[int, ...], layout: I2sLayout, where: str
) -> tuple[np.ndarray, np.float32]:
    """Bytes to the trits int8 [N, K] and their scale; MmcError where they can be neither."""
    packed, scale = raw[:-TAIL_BYTES], raw[-TAIL_BYTES:][:4].view(np.float32)[0]
    if (packed & packed >> 1 & 0x55).any():
        raise MmcError("holds the code 3: it is not I2_S", where)
    if not 0 < scale < np.inf:
        raise MmcError(f"its scale is {scale}, not positive and finite", where)
    if not _fits(shape, layout):
        sizes = " x ".join(map(str, shape))
        raise MmcError(f"{sizes} cannot be in the I2_S layout {layout!r}", where, "see --i2s")
    return _unpack(packed, shape, layout), scale


def choose_layout(matrices: Sequence[tuple[np.ndarray, tuple[int, ...]]], where: str) -> I2sLayout:
    """The layout that matrices (bytes, shape) of one file are in, told by their values.

    Trained rows and columns differ in how many zeros they hold.  A wrong layout mixes four rows and
    evens that out.  "64" cannot be told from "128": it has the same rows, and columns in another
    order.
    """
    blocks = all(_fits(shape, "128") for _, shape in matrices)
    rows = all(_fits(shape, "rows") for _, shape in matrices)
    if not (blocks and rows):
        return "rows" if rows else "128"
    gain = sum(
        _unevenness(_unpack(raw[:-TAIL_BYTES], shape, "rows"))
        - _unevenness(_unpack(raw[:-TAIL_BYTES], shape, "128"))
        for raw, shape in matrices
    )
    if abs(gain) < _CLEAR:
        _log.warning("%s: the I2_S layout cannot be told, 128 is assumed; --i2s names it", where)
    return "rows" if gain >= _CLEAR else "128"


def _fits(shape: tuple[int, ...], layout: I2sLayout) -> bool:
    if len(shape) != 2:
        return False
    return shape[0] % 4 == 0 if layout == "rows" else shape[0] * shape[1] % int(layout) == 0


def _unpack(packed: np.ndarray, shape: tuple[int, ...], layout: I2sLayout) -> np.ndarray:
    codes = np.stack([packed >> shift & 3 for shift in (6, 4, 2, 0)])
    run = shape[1] if layout == "rows" else int(layout) // 4
    codes = codes.reshape(4, -1, run).swapaxes(0, 1).reshape(shape)
    return codes.astype(np.int8) - np.int8(1)


def _unevenness(trits: np.ndarray) -> float:
    """How far counts of zeros in rows and columns are from chance: about 0, give or take 1."""
    zero = trits == 0
    share, found = zero.mean(), 0.0
    if not 0 < share < 1:
        return 0.0
    for axis in (0, 1):
        count = zero.shape[axis]
        off = (zero.sum(axis) - count * share) ** 2 / (count * share * (1 - share))
        found += float((off - 1).sum()) / (2 * off.size) ** 0.5
    return found
