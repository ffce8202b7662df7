"""Packing: the bytes are as drawn, every shape comes back, and wrong bytes are refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from mmc.ir.packing import BLOCKS, Layout, pack, packed_bytes, runs, tile_vectors, unpack

SHAPES = [(1, 1), (1, 20), (16, 16), (15, 19), (17, 21), (3, 95), (16, 96), (33, 333), (100, 640)]
LAYOUTS: list[Layout] = ["2bit", "1.67bit", "1.6bit"]


def random_trits(n: int, k: int) -> npt.NDArray[np.int8]:
    return np.random.default_rng(n * 1000 + k).integers(-1, 2, (n, k), np.int8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_unpack_inverts_pack(n: int, k: int, layout: Layout) -> None:
    trits = random_trits(n, k)
    packed = pack(trits, layout)
    assert packed.dtype == np.uint8
    assert packed.shape == (packed_bytes(n, k, layout),)
    np.testing.assert_array_equal(unpack(packed, n, k, layout), trits)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_weights_than_are_packed_at_a_time(layout: Layout) -> None:
    trits = random_trits(1100, 2003)
    np.testing.assert_array_equal(unpack(pack(trits, layout), 1100, 2003, layout), trits)


def test_input_need_not_be_contiguous() -> None:
    trits = random_trits(40, 70)
    expected = pack(np.ascontiguousarray(trits.T), "1.6bit")
    np.testing.assert_array_equal(pack(trits.T, "1.6bit"), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_follow_the_formula(layout: Layout) -> None:
    """Each byte is computed on its own from the drawing in the module's docstring."""
    n, k = 18, 203
    trits = random_trits(n, k)
    packed = pack(trits, layout).reshape(2, tile_vectors(k, layout), 16, 4)

    def digit(row: int, column: int) -> int:
        return int(trits[row, column]) + 1 if row < n and column < k else 1

    for tile, row, j, run in itertools.product(range(2), range(16), range(4), runs(k, layout)):
        words, vectors = BLOCKS[run.layout].words, BLOCKS[run.layout].vectors
        for block in range(run.blocks):
            first = run.first_word + block * words
            digits = [digit(tile * 16 + row, 4 * (first + w) + j) for w in range(words)]
            start = run.first_vector + block * vectors
            found = packed[tile, start : start + vectors, row, j].tolist()
            assert found == EXPECTED[run.layout](digits), (tile, row, j, run, block)


def bytes_1_67bit(d: list[int]) -> list[int]:
    """Bit by bit, from the table: (vector, first bit, code, first bit of the code, bits)."""
    places = [(i, 0, i, 0, 5) for i in range(5)] + [(i, 5, 5 + i, 0, 3) for i in range(3)]
    places += [(3, 5, 5, 3, 2), (3, 7, 7, 4, 1), (4, 5, 7, 3, 1), (4, 6, 6, 3, 2)]
    made = [0] * 5
    for vector, at, code, first, count in places:
        value = d[3 * code] + 3 * d[3 * code + 1] + 9 * d[3 * code + 2]
        made[vector] |= (value >> first) % 2**count << at
    return made


def bytes_1_6bit(d: list[int]) -> list[int]:
    v = 27 * d[0] + 9 * d[1] + 3 * d[2] + d[3]
    return [v + 64 * d[4] if v < 64 else 129 + v + 18 * d[4]]


EXPECTED: dict[Layout, Callable[[list[int]], list[int]]] = {
    "2bit": lambda d: [sum(digit * 4**word for word, digit in enumerate(d))],
    "1.6bit": bytes_1_6bit,
    "1.67bit": bytes_1_67bit,
}


def test_columns_after_the_last_whole_block_are_2bit() -> None:
    assert [(run.layout, run.blocks) for run in runs(2048, "1.67bit")] == [
        ("1.67bit", 21),
        ("2bit", 2),
    ]
    assert [run.layout for run in runs(96, "1.67bit")] == ["1.67bit"]
    assert [run.layout for run in runs(95, "1.67bit")] == ["2bit"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [2, -2, 127, -128])
def test_other_values_are_refused(layout: Layout, value: int) -> None:
    trits = random_trits(5, 7)
    trits[3, 6] = value
    with pytest.raises(ValueError, match="only -1, 0 and 1"):
        pack(trits, layout)


@pytest.mark.parametrize(("layout", "codes"), [("2bit", 81), ("1.67bit", 8 * 27), ("1.6bit", 243)])
def test_bytes_that_encode_nothing_are_refused(layout: Layout, codes: int) -> None:
    """Of a 1.67bit byte 27 of each 32; its other three bits may be anything beside code 13."""
    packed = pack(np.zeros((16, 96), np.int8), layout)
    accepted = 0
    for byte in range(256):
        packed[5] = byte
        try:
            unpack(packed, 16, 96, layout)
        except ValueError:
            continue
        accepted += 1
    assert accepted == codes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wrong_length_is_refused(layout: Layout) -> None:
    packed = pack(random_trits(16, 20), layout)
    with pytest.raises(ValueError, match="bytes"):
        unpack(packed[:-64], 16, 20, layout)


def test_an_empty_matrix_and_an_unknown_layout_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        packed_bytes(0, 5, "2bit")
    with pytest.raises(ValueError, match="layout must be"):
        packed_bytes(1, 5, "3bit")  # pyright: ignore[reportArgumentType]


def test_sizes() -> None:
    assert packed_bytes(5632, 2048, "2bit") == 5632 * 2048 // 4
    assert packed_bytes(5632, 2048, "1.6bit") == 5632 // 16 * 103 * 64
    assert packed_bytes(5632, 2048, "1.67bit") == 5632 // 16 * (21 * 5 + 2) * 64
