"""Packing: the bytes are as drawn, every shape comes back, and wrong bytes are refused."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from mmc.ir.packing import PLANES, Layout, block_columns, pack, packed_bytes, unpack

SHAPES = [(1, 1), (1, 20), (16, 16), (15, 19), (17, 21), (33, 333), (100, 640)]
LAYOUTS: list[Layout] = ["2bit", "1.6bit"]


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
    n, k = 18, 43
    trits = random_trits(n, k)
    columns = block_columns(layout)
    blocks = -(-k // columns)
    packed = pack(trits, layout).reshape(2, blocks, 64)
    for tile, block, row, j in itertools.product(range(2), range(blocks), range(16), range(4)):
        digits = [
            int(trits[tile * 16 + row, column]) + 1 if tile * 16 + row < n and column < k else 1
            for column in (block * columns + 4 * plane + j for plane in range(PLANES[layout]))
        ]
        if layout == "2bit":
            expected = sum(digit * 4**plane for plane, digit in enumerate(digits))
        else:
            value = sum(digit * 3 ** (4 - plane) for plane, digit in enumerate(digits))
            expected = -(-256 * value // 243)
        assert packed[tile, block, 4 * row + j] == expected


def test_multiplying_by_three_yields_the_digits() -> None:
    """What kernels rely on: the carry of 3 b is the next digit."""
    for digits in itertools.product(range(3), repeat=5):
        row = np.repeat(np.array(digits, np.int8) - 1, 4)
        byte = int(pack(row[None, :], "1.6bit")[0])
        for digit in digits:
            assert 3 * byte // 256 == digit
            byte = 3 * byte % 256


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [2, -2, 127, -128])
def test_other_values_are_refused(layout: Layout, value: int) -> None:
    trits = random_trits(5, 7)
    trits[3, 6] = value
    with pytest.raises(ValueError, match="only -1, 0 and 1"):
        pack(trits, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_that_encode_nothing_are_refused(layout: Layout) -> None:
    packed = pack(random_trits(16, 20), layout)
    accepted = 0
    for byte in range(256):
        packed[5] = byte
        try:
            unpack(packed, 16, 20, layout)
        except ValueError:
            continue
        accepted += 1
    assert accepted == 3 ** PLANES[layout]


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
