"""Pack ternary matrices into bytes: 2, 1.67 or 1.6 bits a weight.

Every layout cuts a matrix of n rows and k columns into tiles of 16 rows, one after the other.  A
tile is a row of vectors of 64 bytes, and byte 4 * row + j of a vector belongs to one row of it:

                 byte 0    1    2    3  |  4    5    6    7  |   ...   | 60   61   62   63
                 row 0 j=0  j=1  j=2  j=3 | row 1 j=0 ...      |         | row 15 ...

Four neighbouring columns are a word; j is the column within it.  A block is the few vectors that
together hold some words of 16 rows.  With d_w = weight + 1, a digit in {0, 1, 2}, of word w of the
block (same row and j), the bytes are

    "2bit"      4 words in 1 vector     d_0 + 4 d_1 + 16 d_2 + 64 d_3
    "1.6bit"    5 words in 1 vector     v + 64 d_4 for v < 64, else 129 + v + 18 d_4
                                        where v = 27 d_0 + 9 d_1 + 3 d_2 + d_3
    "1.67bit"  24 words in 5 vectors    eight codes c_i = d_3i + 3 d_3i+1 + 9 d_3i+2 of 5 bits:

        bits     0 1 2 3 4       5     6     7
        vector 0    c_0         c_5: bits 0, 1, 2
        vector 1    c_1         c_6: bits 0, 1, 2
        vector 2    c_2         c_7: bits 0, 1, 2
        vector 3    c_3         c_5: bits 3, 4   c_7: bit 4
        vector 4    c_4         c_7: bit 3       c_6: bits 3, 4

Both of the dense ones are for a byte shuffle with tables of 64 entries.  In a "1.6bit" byte the
lower 6 bits are v, for 64 of its 81 values, and the upper two are d_4; where they are 3, the lower
six are v - 63 + 18 d_4.  That modulo 3 is d_3 as well, which one table thus tells for all bytes.
The codes of "1.67bit" are indices of tables that hold the digits.

Rows are padded to a multiple of 16 and columns to whole blocks with weight 0 (digit 1).  "1.67bit"
holds the columns after its last whole block in 2bit blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Layout: TypeAlias = Literal["2bit", "1.67bit", "1.6bit"]

TILE_ROWS = 16
WORD_COLUMNS = 4
VECTOR_BYTES = TILE_ROWS * WORD_COLUMNS

MAX_COLUMNS = (1 << 19) - 1
"""Most columns for which no 32 bit sum of a kernel overflows, whatever the activations.

Digits in the top bits of a byte weigh 64, and at most a quarter of the columns is in one sum:
k / 4 * 64 * 2 * 128 < 2^31.
"""

_CHUNK_BYTES = 1 << 20
"""Unpacked bytes worked on at a time: what is needed besides input and output stays this small."""


@dataclass(frozen=True)
class Block:
    """What a block of a layout holds: `words` of 16 rows in `vectors` of 64 bytes."""

    words: int
    vectors: int

    @property
    def columns(self) -> int:
        return self.words * WORD_COLUMNS


BLOCKS: dict[Layout, Block] = {"2bit": Block(4, 1), "1.67bit": Block(24, 5), "1.6bit": Block(5, 1)}


@dataclass(frozen=True)
class Run:
    """`blocks` of one layout, one after the other in each tile, from a word and a vector on."""

    layout: Layout
    blocks: int
    first_word: int
    first_vector: int

    @property
    def words(self) -> int:
        return self.blocks * BLOCKS[self.layout].words

    @property
    def vectors(self) -> int:
        return self.blocks * BLOCKS[self.layout].vectors


def runs(k: int, layout: Layout) -> tuple[Run, ...]:
    """Return the runs that hold the columns of a tile: one, or two where "1.67bit" has a rest."""
    if layout not in BLOCKS:
        raise ValueError(f"the layout must be one of {', '.join(BLOCKS)}, not {layout!r}")
    if layout != "1.67bit":
        return (Run(layout, -(-k // BLOCKS[layout].columns), 0, 0),)
    whole, rest = divmod(k, BLOCKS[layout].columns)
    first = Run(layout, whole, 0, 0)
    last = Run("2bit", -(-rest // BLOCKS["2bit"].columns), first.words, first.vectors)
    return tuple(run for run in (first, last) if run.blocks)


def tile_vectors(k: int, layout: Layout) -> int:
    """Return the vectors of a tile."""
    return sum(run.vectors for run in runs(k, layout))


def packed_bytes(n: int, k: int, layout: Layout) -> int:
    """Return the size in bytes of a packed matrix of `n` rows and `k` columns."""
    return _tiles(n, k) * tile_vectors(k, layout) * VECTOR_BYTES


def pack(trits: npt.NDArray[np.int8], layout: Layout) -> npt.NDArray[np.uint8]:
    """Pack an int8 matrix [n, k] of -1, 0 and 1 into bytes; ValueError for any other value."""
    n, k = trits.shape
    tiles = _tiles(n, k)
    words = max(run.first_word + run.words for run in runs(k, layout))
    packed = np.empty((tiles, tile_vectors(k, layout), TILE_ROWS, WORD_COLUMNS), np.uint8)
    for first, last in _chunks(tiles, words):
        rows = trits[first * TILE_ROWS : last * TILE_ROWS]
        if rows.min() < -1 or rows.max() > 1:
            raise ValueError("a ternary matrix may hold only -1, 0 and 1")
        digits = np.ones(((last - first) * TILE_ROWS, words * WORD_COLUMNS), np.uint8)
        np.add(rows, 1, out=digits[: len(rows), :k], casting="unsafe")
        split = digits.reshape(last - first, TILE_ROWS, words, WORD_COLUMNS).swapaxes(1, 2)
        for run in runs(k, layout):
            coded = _encode(_part(split, run.first_word, run.words, run.blocks), run.layout)
            _part(packed[first:last], run.first_vector, run.vectors, run.blocks)[:] = coded
    return packed.reshape(-1)


def unpack(packed: npt.NDArray[np.uint8], n: int, k: int, layout: Layout) -> npt.NDArray[np.int8]:
    """Unpack bytes into an int8 matrix [n, k]; the inverse of `pack`.

    ValueError for a wrong number of bytes and for a byte that encodes no weights.
    """
    tiles = _tiles(n, k)
    if packed.size != packed_bytes(n, k, layout):
        raise ValueError(
            f"a packed {layout} matrix of {n} x {k} has {packed_bytes(n, k, layout)} bytes, "
            f"not {packed.size}"
        )
    words = max(run.first_word + run.words for run in runs(k, layout))
    trits = np.empty((n, k), np.int8)
    vectors = packed.reshape(tiles, -1, TILE_ROWS, WORD_COLUMNS)
    for first, last in _chunks(tiles, words):
        split = np.empty((last - first, words, TILE_ROWS, WORD_COLUMNS), np.uint8)
        for run in runs(k, layout):
            coded = _part(vectors[first:last], run.first_vector, run.vectors, run.blocks)
            _part(split, run.first_word, run.words, run.blocks)[:] = _decode(coded, run.layout)
        if split.max() > 2:
            raise ValueError(f"the bytes are not a packed {layout} matrix")
        rows = trits[first * TILE_ROWS : last * TILE_ROWS]
        digits = split.swapaxes(1, 2).reshape((last - first) * TILE_ROWS, -1)
        np.subtract(digits[: len(rows), :k], 1, out=rows, casting="unsafe")
    return trits


def _tiles(n: int, k: int) -> int:
    if n < 1 or k < 1:
        raise ValueError(f"a matrix must have at least one row and one column, not {n} x {k}")
    return -(-n // TILE_ROWS)


def _chunks(tiles: int, words: int) -> list[tuple[int, int]]:
    """Cut the tiles into runs of about `_CHUNK_BYTES` weights each."""
    step = max(1, _CHUNK_BYTES // (VECTOR_BYTES * words))
    return [(first, min(first + step, tiles)) for first in range(0, tiles, step)]


def _part(
    tiles: npt.NDArray[np.uint8], start: int, count: int, blocks: int
) -> npt.NDArray[np.uint8]:
    """Return words or vectors [tile, start : start + count, row, j] by block, as a view.

    [tile, block, word or vector of the block, row, j]
    """
    part = tiles[:, start : start + count]
    stride = part.strides[1]
    shape = (len(part), blocks, count // blocks, *part.shape[2:])
    strides = (part.strides[0], stride * (count // blocks), stride, *part.strides[2:])
    return np.lib.stride_tricks.as_strided(part, shape, strides)


def _encode(digits: npt.NDArray[np.uint8], layout: Layout) -> npt.NDArray[np.uint8]:
    """Turn digits [..., word, row, j] of blocks into vectors [..., vector, row, j]."""
    d = np.moveaxis(digits, -3, 0)
    if layout == "2bit":
        return np.expand_dims(d[0] | d[1] << 2 | d[2] << 4 | d[3] << 6, -3)
    if layout == "1.6bit":
        v = 27 * d[0] + 9 * d[1] + 3 * d[2] + d[3]
        other = v >> 6  # 1 from 64 on
        return np.expand_dims(v + 129 * other + (64 - 46 * other) * d[4], -3)
    c = d[0::3] + 3 * d[1::3] + 9 * d[2::3]
    vectors = c[:5].copy()
    vectors[:3] |= c[5:] << 5
    vectors[3] |= c[5] >> 3 << 5 | c[7] >> 4 << 7
    vectors[4] |= c[6] >> 3 << 6 | (c[7] >> 3 & 1) << 5
    return np.moveaxis(vectors, 0, -3)


def _decode(vectors: npt.NDArray[np.uint8], layout: Layout) -> npt.NDArray[np.uint8]:
    """Turn vectors [..., vector, row, j] into digits [..., word, row, j]; above 2: no digit."""
    v = np.moveaxis(vectors, -3, 0)
    if layout == "2bit":
        digits = np.stack([v[0] >> 2 * word & 3 for word in range(4)])
    elif layout == "1.6bit":
        digits = np.moveaxis(_DIGITS[v[0]], -1, 0)
    else:
        c = np.concatenate([v & 31, v[:3] >> 5])
        c[5] |= (v[3] >> 5 & 3) << 3
        c[6] |= v[4] >> 6 << 3
        c[7] |= (v[4] >> 5 & 1) << 3 | v[3] >> 7 << 4
        digits = np.empty((24, *c.shape[1:]), np.uint8)
        digits[0::3], digits[1::3], digits[2::3] = c % 3, c // 3 % 3, c // 9
    return np.moveaxis(digits, 0, -3)


def _every_digit() -> npt.NDArray[np.uint8]:
    """Return the digits [256, 5] of every 1.6bit byte, 255 for one that encodes none."""
    every = np.indices((3,) * 5, np.uint8).reshape(5, 1, -1)
    digits = np.full((256, 5), 255, np.uint8)
    digits[_encode(every, "1.6bit")[0]] = every[:, 0].T
    return digits


_DIGITS = _every_digit()
