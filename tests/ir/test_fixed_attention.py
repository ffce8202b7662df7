"""Attention in whole numbers: near floats, exact at the ends of its widths, and what it refuses."""

# pyright: reportUnknownLambdaType=false
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mmc.ir.evaluate import evaluate
from mmc.ir.fixed_point import power_of_half, power_table
from mmc.ir.graph import graph_of
from mmc.ir.op import Op, VerifyError
from mmc.ir.ops.attention import Attention, Rotary
from mmc.ir.ops.fixed_attention import FixedAttention, FixedNarrow, FixedRotary, FixedTriple
from mmc.ir.ops.source import Input
from mmc.ir.types import DType, TensorType
from mmc.passes.fixed_ranges import scalar_of

KINDS = {"i": DType.I32, "h": DType.I16, "l": DType.I64, "f": DType.F32}


def run(make: Callable[..., Op], *arrays: np.ndarray) -> np.ndarray:
    inputs = [
        Input(f"x{n}", TensorType(KINDS[a.dtype.char], a.shape)) for n, a in enumerate(arrays)
    ]
    graph = graph_of("g", {"y": make(*inputs)}, inputs)
    return evaluate(graph, {f"x{n}": a for n, a in enumerate(arrays)})["y"]


def test_powers_for_every_step() -> None:
    x = np.arange(0, 26 << 16, 7)
    exact = 2.0 ** (24 - x / 65536)
    error = np.abs(power_of_half(x, 16) - exact)
    assert (error <= 1 + exact * 2.0**-17).all()
    assert power_of_half(np.array([0, 1 << 27]), 16).tolist() == [1 << 24, 0]
    assert np.array_equal(power_of_half(x << 3, 16), power_of_half(x, 13))
    assert power_table().max() == 1 << 18


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
def test_attention_is_near_that_of_floats(heads: int, groups: int) -> None:
    """Numbers as a trained layer has them; scores from flat to one that takes all."""
    rng = np.random.default_rng(heads)
    mantissa, exponent = scalar_of(0.25 * np.log2(np.e) * 2.0 ** (14 - 11 - 12))
    fixed: Callable[..., Op] = lambda *x: FixedAttention(*x, mantissa, exponent, 14)  # noqa: E731
    floats: Callable[..., Op] = lambda *x: Attention(*x, 0.25)  # noqa: E731
    position = np.array([0, 27])
    for steep in (0.1, 1.0, 10.0):
        q = rng.normal(size=(2, 3, heads, 16)) * steep
        keys, values = rng.normal(size=(2, 2, groups, 30, 16))
        wanted = run(floats, *(a.astype(np.float32) for a in (q, keys, values)), position)
        caches = (np.rint(a * 2.0**12).astype(np.int16) for a in (keys, values))
        found = run(fixed, np.rint(q * 2.0**11).astype(np.int32), *caches, position)
        assert np.abs(found * 2.0 ** -(12 + 11) - wanted).max() < 2e-3 * max(1, steep)


def test_a_mean_of_the_largest_values_is_the_largest() -> None:
    q = np.zeros((1, 1, 1, 2), np.int32)
    keys = np.zeros((1, 1, 5, 2), np.int16)
    values = np.zeros((1, 1, 5, 2), np.int16)
    values[..., 0], values[..., 1] = (1 << 15) - 1, -(1 << 15) + 1
    make: Callable[..., Op] = lambda q, k, v, p: FixedAttention(q, k, v, p, 1 << 15, 20, 16)  # noqa: E731
    for position in range(5):
        y = run(make, q, keys, values, np.array([position])).reshape(-1)
        exact = ((1 << 15) - 1) << 11
        assert np.abs(y / [exact, -exact] - 1).max() < 1e-4


def test_rotary_is_near_that_of_floats() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-90_000, 90_001, (2, 3, 4, 8)).astype(np.int32)
    angle = rng.uniform(-4, 4, (2, 3, 4)).astype(np.float32)
    turn = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    wanted = run(Rotary, x.astype(np.float32), np.cos(angle), np.sin(angle))
    found = run(FixedRotary, x, np.rint(turn * (1 << 14)).astype(np.int16))
    assert np.abs(found - wanted).max() < 0.5 + 2 * 90_000 * 2.0**-15
    largest = np.full((1, 1, 1, 2), (1 << 17) - 1, np.int32)
    eighth = np.full((1, 1, 2), 11585, np.int16)
    assert run(FixedRotary, largest, eighth).tolist() == [[[[0, (1 << 17) - 1]]]]


def test_narrow_rounds_half_up_and_saturates() -> None:
    x = np.array([-3, -2, 2, 5, 6, (1 << 17) - 1, -(1 << 17) + 1], np.int32)
    y = run(lambda x: FixedNarrow(x, 2), x)
    assert y.dtype == np.int16
    assert y.tolist() == [-1, 0, 1, 1, 2, (1 << 15) - 1, -(1 << 15) + 1]


def test_triples_are_digits() -> None:
    assert run(FixedTriple, np.array([-5, 7], np.int32), np.array([1, -2], np.int32)).tolist() == [
        -14, 19
    ]  # fmt: skip


def given(name: str, dtype: DType, *dims: int) -> Input:
    return Input(name, TensorType(dtype, dims))


Q, TURN = given("q", DType.I32, 1, 1, 6, 8), given("turn", DType.I16, 1, 1, 8)
CACHE, POSITION = given("keys", DType.I16, 1, 2, 9, 8), given("position", DType.I64, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedRotary(Q, given("t", DType.I16, 1, 1, 4)), "turn is"),
        (lambda: FixedNarrow(Q, 0), "shift is 0"),
        (lambda: FixedTriple(Q, TURN), "and"),
        (lambda: FixedAttention(Q, CACHE, CACHE, CACHE, 40000, 3, 12), "position is"),
        (lambda: FixedAttention(Q, CACHE, CACHE, POSITION, 4, 3, 12), "the mantissa 4"),
        (lambda: FixedAttention(Q, CACHE, CACHE, POSITION, 40000, 0, 12), "the exponent is 0"),
        (lambda: FixedAttention(Q, CACHE, CACHE, POSITION, 40000, 3, 7), "no table for 7"),
        (
            lambda: FixedAttention(
                given("q", DType.I32, 1, 1, 5, 8), CACHE, CACHE, POSITION, 40000, 3, 12
            ),
            "5 heads cannot share 2 groups",
        ),
    ],
)
def test_refused(make: Callable[[], Op], message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        _ = make().types
