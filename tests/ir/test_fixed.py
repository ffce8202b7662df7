"""The operations on whole numbers beside real arithmetic, and at the ends of their ranges."""

# pyright: reportUnknownLambdaType=false
# The tables below are full of lambdas.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mmc.ir.evaluate import evaluate
from mmc.ir.fixed_point import bit_length, multiply_scalars, root_and_reciprocal, sigmoid_table
from mmc.ir.graph import graph_of
from mmc.ir.op import Op, VerifyError
from mmc.ir.ops import fixed, fixed_gates
from mmc.ir.ops.source import Input
from mmc.ir.text import parse, render
from mmc.ir.types import DType, TensorType

DTYPES = {np.dtype(np.int8): DType.I8, np.dtype(np.int16): DType.I16, np.dtype(np.int32): DType.I32}
LARGEST = (1 << 26) - 1


def run(make: Callable[..., Op], *arrays: np.ndarray) -> list[np.ndarray]:
    """An operation by the interpreter, through its text form, with its types held to."""
    inputs = [Input(f"x{n}", TensorType(DTYPES[a.dtype], a.shape)) for n, a in enumerate(arrays)]
    op = make(*inputs)
    graph = graph_of("g", {f"y{n}": value for n, value in enumerate(op.results)}, inputs)
    assert parse(render(graph)) is graph
    found = list(evaluate(graph, {f"x{n}": a for n, a in enumerate(arrays)}).values())
    assert [(a.dtype, a.shape) for a in found] == [(t.dtype.numpy, t.shape) for t in op.types]
    return found


def i32(*numbers: Any) -> np.ndarray:
    return np.array(numbers, np.int32)


def wide(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers of 27 bits in rows of very different sizes."""
    size = 10.0 ** rng.uniform(-6, 0, (*shape[:-1], 1))
    return np.clip(rng.normal(size=shape) * size * LARGEST, -LARGEST, LARGEST).astype(np.int32)


def test_bit_length_is_that_of_python() -> None:
    numbers = [0, 1, 2, 3, (1 << 54) - 1, 1 << 54, (1 << 62) - 1]
    found = bit_length(np.array(numbers, np.int64))
    assert found.tolist() == [n.bit_length() for n in numbers]


def test_root_and_reciprocal_over_the_whole_range() -> None:
    totals = [1, 2, 3, *(1 << k for k in range(1, 61)), *((1 << k) - 1 for k in range(2, 62))]
    m, e = root_and_reciprocal(np.array(totals, np.int64))
    assert m.min() >= 1 << 15
    assert m.max() < 1 << 16
    real = np.ldexp(m.astype(float), -e.astype(int)) * np.sqrt(np.array(totals, float))
    assert np.abs(real - 1).max() < 7e-5


def test_product_of_scalars_has_sixteen_bits() -> None:
    ends = np.array([1 << 15, (1 << 15) + 1, 46341, 65535], np.int64)
    a, b = np.meshgrid(ends, ends)
    m, e = multiply_scalars((a, np.full_like(a, 3)), (b, np.full_like(b, -4)))
    assert m.min() >= 1 << 15
    assert m.max() < 1 << 16
    assert np.abs(np.ldexp(m.astype(float), -e.astype(int)) / (2.0 * a * b) - 1).max() < 2**-15


@pytest.mark.parametrize("with_gain", [False, True])
def test_norm_and_codes(with_gain: bool) -> None:
    """Codes of a normalised row are what real numbers give, but for ties; so is their scale."""
    rng = np.random.default_rng(0)
    x = wide(rng, 50, 96)
    gain = [rng.integers(-32767, 32768, 96).astype(np.int16)] if with_gain else []
    n, r, e = run(lambda x, *g: fixed.FixedNormalize(x, g[0] if g else None, 0, 0), x, *gain)
    real = x * (gain[0].astype(float) if with_gain else 1.0)
    assert np.abs(n).max(-1).min() >= 1 << 16
    assert np.abs(n).max() <= 1 << 17
    norm = np.ldexp(r.astype(float), -e)
    assert (
        np.abs(norm * np.sqrt(np.square(n.astype(float)).sum(-1, keepdims=True)) - 1).max() < 1e-4
    )
    outer = rng.integers(-32767, 32768, 96).astype(np.int16)
    q, m, s = run(fixed.FixedQuantize, n, outer, r, e)
    u = real * outer
    exact = 127 * u / np.abs(u).max(-1, keepdims=True)
    assert np.abs(q - exact).max() < 0.51
    assert (np.abs(q).max(-1) == 127).all()
    unit = np.abs(n * outer.astype(float)).max(-1, keepdims=True) * norm
    assert np.abs(np.ldexp(m.astype(float), -s) / unit - 1).max() < 1e-4


def test_norm_of_zeros_and_of_the_largest_numbers() -> None:
    x = np.stack([np.zeros(64), np.full(64, LARGEST), np.full(64, -LARGEST)]).astype(np.int32)
    gain = np.full(64, 32767, np.int16)
    n, r, e = run(lambda x, g: fixed.FixedNormalize(x, g, 65535, 60), x, gain)
    q, *_ = run(fixed.FixedQuantize, n, gain, r, e)
    assert q.tolist() == [[0] * 64, [127] * 64, [-127] * 64]


def test_eps_of_a_norm() -> None:
    """Rows from far below to far above the root of eps."""
    x = (np.ones((6, 32)) * 10.0 ** np.arange(6)[:, None]).astype(np.int32)
    eps = 32 * 1e4  # of the mean of the squares, times the columns
    n, r, e = run(lambda x: fixed.FixedNormalize(x, None, 40000, 3), x)
    assert eps == 40000 * 2**3
    scale = np.ldexp(r.astype(float), -e) * n / x
    exact = 1 / np.sqrt(np.square(x.astype(float)).sum(-1, keepdims=True) + eps)
    assert np.abs(scale / exact - 1).max() < 1e-4


def test_norm_without_codes() -> None:
    rng = np.random.default_rng(1)
    x, gain = wide(rng, 20, 40), rng.integers(1, 32768, 40).astype(np.int16)
    n, r, e = run(lambda x: fixed.FixedNormalize(x, None, 0, 0), x)
    make = lambda n, g, r, e: fixed.FixedRmsNorm(n, g, r, e, 1 << 15, 15, 18)  # noqa: E731
    [y] = run(make, n, gain, r, e)
    exact = x.astype(float) * gain / np.sqrt(np.square(x.astype(float)).sum(-1, keepdims=True))
    assert np.abs(y - exact).max() < 0.5 + 1e-4 * np.abs(exact).max()


def test_requantize_rounds_half_up_and_saturates() -> None:
    sums = np.array([[-3, -2, -1, 0, 1, 2, 3, 1 << 22, -(1 << 22)]], np.int32)
    one, e = i32([1 << 15]), i32([0])
    half = lambda s, m, e: fixed.FixedRequantize(s, m, e, 1 << 15, 31, 18)  # noqa: E731
    largest = (1 << 17) - 1
    [y] = run(half, sums, one, e)
    assert y.tolist() == [[-1, -1, 0, 0, 1, 1, 2, largest, -largest]]
    [y] = run(half, sums, one, i32([200]))
    assert not y.any()  # a shift beyond the widest number leaves nothing


def test_logits_are_exact() -> None:
    sums = np.array([[(1 << 23) - 1, -5, 0]], np.int32)
    [y] = run(lambda s, m, e: fixed.FixedLogits(s, m, e, 1 << 15, 15), sums, i32([40000]), i32([3]))
    assert y.dtype == np.float32
    assert y.tolist() == [[float(np.float32(s * 5000.0)) for s in sums[0]]]


@pytest.mark.parametrize("fraction", [4, 9, 13])
def test_sigmoid_for_every_number(fraction: int) -> None:
    x = np.arange(-(1 << 17), 1 << 17, dtype=np.int32)
    [y] = run(lambda x: fixed_gates.FixedSigmoid(x, fraction), x)
    real = np.maximum(np.ldexp(x.astype(float), -fraction), -700)
    exact = 65536 / (1 + np.exp(-real))
    assert np.abs(y - exact).max() < 1.6
    assert (np.diff(y) >= 0).all()
    assert (y.min(), y.max() <= 65535) == (0, True)


def test_sigmoid_table_fits_its_bits() -> None:
    table = sigmoid_table()
    assert len(table) == 1025
    assert (table.min(), table.max()) == (0, 65535)
    assert np.diff(table).min() >= 0
    assert np.diff(table).max() < 1 << 10


def test_forget_gate_lies_between_its_bound_and_one() -> None:
    s = np.array([0, 1, 32768, 65534, 65535], np.int32)[:, None] * np.ones(5, np.int32)
    bound = np.array([0, 1, 32768, 65534, 65535], np.int32)
    [y] = run(fixed_gates.FixedForget, s, bound)
    assert (y >= bound).all()
    assert y.max() == 65535
    exact = bound + (1 - bound / 65536) * s
    assert np.abs(y - exact).max() <= 1


def test_product_shift_and_sum() -> None:
    a, b = i32(-(1 << 17), 3, 5), i32(-(1 << 17), 1, -1)
    [y] = run(lambda a, b: fixed_gates.FixedProduct(a, b, 9), a, b)
    assert y.tolist() == [1 << 25, 0, 0]
    [y] = run(lambda a, b: fixed_gates.FixedProduct(a, b, 1), a[1:], b[1:])
    assert y.tolist() == [2, -2]  # 1.5 and -2.5
    [y] = run(lambda x: fixed_gates.FixedShift(x, 1), i32(-3, -1, 1, 3))
    assert y.tolist() == [-1, 0, 1, 2]
    [y] = run(lambda x: fixed_gates.FixedShift(x, -2), np.array([-3, 7], np.int16))
    assert y.tolist() == [-12, 28]
    [y] = run(fixed_gates.FixedAdd, i32(LARGEST, -LARGEST, 1), i32(1, -1, 1))
    assert y.tolist() == [LARGEST, -LARGEST, 2]


def test_recurrence_never_leaves_the_range_of_its_input() -> None:
    """The largest inputs, and gates that round worst, for a thousand steps."""
    rng = np.random.default_rng(2)
    c = np.where(rng.integers(0, 2, (1, 1000, 8)), (1 << 17) - 1, -(1 << 17) + 1).astype(np.int32)
    c[..., :2] = [(1 << 17) - 1, -(1 << 17) + 1]
    f = rng.choice([0, 1, 32768, 65534, 65535], (1, 1000, 8)).astype(np.int32)
    [h] = run(fixed_gates.FixedRecurrence, f, c, np.zeros((1, 8), np.int32))
    assert np.abs(h).max() <= ((1 << 17) - 1) << 9
    assert h[0, -1, :2].tolist() == [((1 << 17) - 1) << 9, -((1 << 17) - 1) << 9]


def test_recurrence_keeps_what_is_far_below_one_step_of_its_input() -> None:
    """A long memory lets little in at a time: here 0.05 of the input's last bit."""
    c, f = np.full((1, 3000, 1), 100, np.int32), np.full((1, 3000, 1), 65500, np.int32)
    [h] = run(fixed_gates.FixedRecurrence, f, c, np.zeros((1, 1), np.int32))
    exact = (1 - (65500 / 65536) ** 3000) * 100
    assert abs(h[0, -1, 0] / 512 - exact) < 0.02 * exact


X, N16 = Input("x", TensorType(DType.I32, (2, 4))), Input("g", TensorType(DType.I16, (3,)))
ROW, REAL = Input("m", TensorType(DType.I32, (2, 1))), Input("r", TensorType(DType.F32, (2, 4)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fixed.FixedNormalize(REAL, None, 0, 0), "takes integers"),
        (lambda: fixed.FixedNormalize(X, N16, 0, 0), "one number a column"),
        (lambda: fixed.FixedNormalize(X, None, 65536, 0), "16 bits"),
        (lambda: fixed.FixedQuantize(X, None, X, ROW), "a scalar for each row"),
        (lambda: fixed.FixedRequantize(X, ROW, ROW, 3, 0, 18), "the mantissa 3"),
        (lambda: fixed.FixedRequantize(X, ROW, ROW, 40000, 0, 19), "no width of 19"),
        (lambda: fixed_gates.FixedSigmoid(X, 14), "no table for 14"),
        (lambda: fixed_gates.FixedSigmoid(X, 3), "no table for 3"),
        (lambda: fixed_gates.FixedProduct(X, ROW, 3), "times"),
        (lambda: fixed_gates.FixedProduct(X, X, 0), "shift is 0"),
        (lambda: fixed_gates.FixedAdd(X, ROW), "plus"),
        (lambda: fixed_gates.FixedRecurrence(X, X, X, 1), "a step is"),
    ],
)
def test_refused(make: Callable[[], Op], message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        _ = make().types
