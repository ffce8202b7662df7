"""Pack ternary matrices into bytes: 2 bits a weight, or 1.6 bits (five weights in a byte).

Both layouts cut a matrix of n rows and k columns into tiles of 16 rows.  A tile is a run of blocks
of 64 bytes; byte 4 * row + j of a block belongs to one row of the tile:

                 byte 0    1    2    3  |  4    5    6    7  |   ...   | 60   61   62   63
                 row 0 j=0  j=1  j=2  j=3 | row 1 j=0 ...      |         | row 15 ...

and holds one weight from each of S planes, S = 4 ("2bit") or 5 ("1.6bit"): plane s is column
4 * S * block + 4 * s + j.  So four neighbouring columns of a row lie in four neighbouring bytes,
and a block covers 16 or 20 columns.  With d_s = weight + 1, a digit in {0, 1, 2}, a byte holds

    "2bit"     d_0 + 4 d_1 + 16 d_2 + 64 d_3
    "1.6bit"   ceil(256 v / 243) with v = 81 d_0 + 27 d_1 + 9 d_2 + 3 d_3 + d_4

The second is the fraction v / 243 in 8 bits: multiplying the byte by 3 moves d_0 into the carry
and leaves, modulo 256, the byte of the remaining digits.  Rows are padded to a multiple of 16 and
columns to a multiple of 16 or 20 with weight 0 (digit 1).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Layout: TypeAlias = Literal["2bit", "1.6bit"]

TILE_ROWS = 16
BLOCK_BYTES = 64
PLANES: dict[Layout, int] = {"2bit": 4, "1.6bit": 5}
"""Weights in a byte."""

MAX_COLUMNS: dict[Layout, int] = {"2bit": (1 << 19) - 1, "1.6bit": (1 << 15) - 1}
"""Most columns for which no 32 bit sum of a kernel overflows, whatever the activations.

2bit: digits in the top bits of a byte weigh 64, and a quarter of the columns is in one sum:
k / 4 * 64 * 2 * 128 < 2^31.  1.6bit: the result is formed times 256: k * 256 * 2 * 128 < 2^31.
"""

_CHUNK_BYTES = 1 << 20
"""Unpacked bytes worked on at a time: what is needed besides input and output stays this small."""


def block_columns(layout: Layout) -> int:
    """Return how many columns a block covers."""
    return 4 * PLANES[layout]


def packed_bytes(n: int, k: int, layout: Layout) -> int:
    """Return the size in bytes of a packed matrix of `n` rows and `k` columns."""
    tiles, blocks = _tiles_and_blocks(n, k, layout)
    return tiles * blocks * BLOCK_BYTES


def pack(trits: npt.NDArray[np.int8], layout: Layout) -> npt.NDArray[np.uint8]:
    """Pack an int8 matrix [n, k] of -1, 0 and 1 into bytes; ValueError for any other value."""
    n, k = trits.shape
    tiles, blocks = _tiles_and_blocks(n, k, layout)
    planes = PLANES[layout]
    packed = np.empty((tiles, blocks, TILE_ROWS, 4), np.uint8)
    for first, last in _chunks(tiles, blocks * block_columns(layout)):
        rows = trits[first * TILE_ROWS : last * TILE_ROWS]
        if rows.min() < -1 or rows.max() > 1:
            raise ValueError("a ternary matrix may hold only -1, 0 and 1")
        digits = np.ones(((last - first) * TILE_ROWS, blocks * block_columns(layout)), np.uint8)
        np.add(rows, 1, out=digits[: len(rows), :k], casting="unsafe")
        split = digits.reshape(last - first, TILE_ROWS, blocks, planes, 4)
        packed[first:last] = _encode(split, layout).transpose(0, 2, 1, 3)
    return packed.reshape(-1)


def unpack(packed: npt.NDArray[np.uint8], n: int, k: int, layout: Layout) -> npt.NDArray[np.int8]:
    """Unpack bytes into an int8 matrix [n, k]; the inverse of `pack`.

    ValueError for a wrong number of bytes and for a byte that encodes no weights.
    """
    tiles, blocks = _tiles_and_blocks(n, k, layout)
    if packed.size != packed_bytes(n, k, layout):
        raise ValueError(
            f"a packed {layout} matrix of {n} x {k} has {packed_bytes(n, k, layout)} bytes, "
            f"not {packed.size}"
        )
    weights, valid = _CODES[layout]
    trits = np.empty((n, k), np.int8)
    tile_bytes = packed.reshape(tiles, blocks, TILE_ROWS, 4)
    for first, last in _chunks(tiles, blocks * block_columns(layout)):
        codes = tile_bytes[first:last].transpose(0, 2, 1, 3)
        if not valid[codes].all():
            raise ValueError(f"the bytes are not a packed {layout} matrix")
        rows = trits[first * TILE_ROWS : last * TILE_ROWS]
        decoded = weights[codes].swapaxes(-1, -2)  # [tile, row, block, plane, j]
        rows[:] = decoded.reshape((last - first) * TILE_ROWS, -1)[: len(rows), :k]
    return trits


def _tiles_and_blocks(n: int, k: int, layout: Layout) -> tuple[int, int]:
    if layout not in PLANES:
        raise ValueError(f"the layout must be one of {', '.join(PLANES)}, not {layout!r}")
    if n < 1 or k < 1:
        raise ValueError(f"a matrix must have at least one row and one column, not {n} x {k}")
    return -(-n // TILE_ROWS), -(-k // block_columns(layout))


def _chunks(tiles: int, columns: int) -> list[tuple[int, int]]:
    """Cut the tiles into runs of about `_CHUNK_BYTES` weights each."""
    step = max(1, _CHUNK_BYTES // (TILE_ROWS * columns))
    return [(first, min(first + step, tiles)) for first in range(0, tiles, step)]


def _encode(digits: npt.NDArray[np.uint8], layout: Layout) -> npt.NDArray[np.uint8]:
    """Turn digits [..., plane, j] into bytes [..., j]."""
    base = 4 if layout == "2bit" else 3
    order = range(PLANES[layout])
    first, *rest = reversed(order) if layout == "2bit" else order
    value = digits[..., first, :].copy()
    for plane in rest:
        value *= base
        value += digits[..., plane, :]
    return value if layout == "2bit" else _FRACTION[value]


def _every_code(layout: Layout) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_]]:
    """Return the weights [256, plane] of every byte, and which bytes encode weights at all."""
    planes = PLANES[layout]
    digits = np.indices((3,) * planes, np.uint8).reshape(planes, -1, 1).swapaxes(0, 1)
    codes = _encode(digits, layout)[:, 0]
    weights = np.zeros((256, planes), np.int8)
    weights[codes] = digits[..., 0].astype(np.int8) - 1
    valid = np.zeros(256, np.bool_)
    valid[codes] = True
    return weights, valid


# ceil(256 v / 243) for v < 243.
_FRACTION = ((np.arange(243) * 256 + 242) // 243).astype(np.uint8)
_CODES = {layout: _every_code(layout) for layout in PLANES}
