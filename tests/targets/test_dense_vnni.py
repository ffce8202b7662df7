"""Dense products in whole numbers against float64, on rows that floats find hard."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mmc.ir.compare import relative_error
from mmc.ir.graph import Graph, graph_of
from mmc.ir.ops.int4 import DequantizeInt4
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.pointwise import Add, Cast
from mmc.ir.ops.source import Input, scalar
from mmc.ir.types import DType, TensorType, symbol
from mmc.targets.cpu import dense_bytes, dense_fixed, dense_vnni
from mmc.targets.cpu.features import ISA_FLAGS, Isa, cpu_flags
from mmc.targets.cpu.processor import PROCESSORS
from mmc.targets.tvm import dense, host, loader
from mmc.targets.tvm.check import FLOAT_BOUND
from tests.targets.kernel_programs import aligned, program_of

ISAS: tuple[Isa, ...] = ("avx512_vnni", "avx_vnni")
"""AVX-VNNI's instructions are those of AVX-512 on 32 bytes, which stand in for them here."""

SHAPES = [(1, 1), (7, 15), (5, 31), (17, 64), (33, 100), (100, 192), (21, 389)]
"""Rows and columns of the matrix."""

INT4 = [(5, 64), (33, 128), (21, 192), (100, 2560), (3, 96)]
"""Of one of 4 bits: whole vectors of 64 bytes, of 32, and of neither, which is widened."""

pytestmark = pytest.mark.skipif(
    not ISA_FLAGS["avx512_vnni"] <= cpu_flags(), reason="this processor has no AVX-512 VNNI"
)


def body_of(n: int, k: int, zero: float = 128.0, bias: bool = False) -> Graph:
    x = Input("x", TensorType(DType.F32, (symbol("B"), symbol("T"), k)))
    w = Cast(Input("w", TensorType(DType.U8, (n, k))), DType.F32)
    given = Input("bias", TensorType(DType.F32, (n,))) if bias else None
    return graph_of("linear", {"y": Linear(x, Add(w, scalar(-zero)) if zero else w, given)})


def body_of_int4(n: int, k: int) -> Graph:
    x = Input("x", TensorType(DType.F32, (symbol("B"), symbol("T"), k)))
    packed = Input("codes", TensorType(DType.U8, (n, k // 2)))
    steps = Input("steps", TensorType(DType.F16, (n, k // 32)))
    return graph_of("linear", {"y": Linear(x, DequantizeInt4(packed, steps))})


@cache
def program() -> loader.Program:
    """A kernel for each instruction set and shape, one without a zero, one with a bias."""
    kernels: dict[str, host.Kernel] = {}
    for isa in ISAS:
        bodies = {f"{n}_{k}": body_of(n, k) for n, k in SHAPES}
        bodies |= {f"int4_{n}_{k}": body_of_int4(n, k) for n, k in INT4}
        bodies |= {"plain": body_of(33, 100, zero=0), "bias": body_of(33, 100, bias=True)}
        for name, body in bodies.items():
            flat = dense.flatten(body)
            assert flat is not None
            kernels[f"{isa}_{name}"] = dense_vnni.emit(flat[0], f"kernel_{isa}_{name}", isa)
    return program_of(kernels, PROCESSORS["avx512_vnni"].target)


def run(isa: Isa, name: str, x: np.ndarray, w: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """The product of x[rows, K]; others: steps, a bias."""
    out = aligned(np.full((x.shape[0], w.shape[0]), 7, np.float32))
    arrays = (*map(aligned, (x, w, *others)), out)
    program()[f"{isa}_{name}"](*map(loader.as_tensor, arrays), x.shape[0])
    return out


def codes(n: int, k: int) -> np.ndarray:
    return np.random.default_rng(n * k).integers(0, 256, (n, k)).astype(np.uint8)


def hostile_rows(k: int) -> dict[str, np.ndarray]:
    """Rows by what is hard about them."""
    random = np.random.default_rng(k)
    plain = random.standard_normal(k)
    outlier, spread = plain.copy(), plain * 10.0 ** random.integers(-30, 30, k)
    outlier[k // 2] = 1e4
    return {
        "plain": plain,
        "outlier": outlier,
        "spread": spread,
        "zeros": np.zeros(k),
        "equal": np.full(k, -1 / 3),
        "denormal": plain * 1e-41,
        "smallest": np.where(np.arange(k) % 3, 0, 2.0**-149),
        "normal and denormal": np.where(np.arange(k) % 2, plain * 1e-40, 2.0**-126),
        "power of two": np.full(k, 2.0**20),
        "below a power of two": np.full(k, np.nextafter(np.float32(2), np.float32(0))),
        "above its negative": np.full(k, -np.nextafter(np.float32(2), np.float32(0))),
        "huge": plain * 1e34,
    }


def bound(x: np.ndarray, w: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What the module's docstring allows."""
    largest = np.abs(x).max(-1, keepdims=True)
    half_a_unit = 0.5 * np.spacing(np.abs(y).astype(np.float32)).astype(np.float64)
    return 2.0**-30 * largest * np.abs(w).sum(1) + half_a_unit


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_hostile_rows_stay_within_the_bound(isa: Isa, shape: tuple[int, int]) -> None:
    n, k = shape
    x = np.stack([*hostile_rows(k).values()]).astype(np.float32)
    w = codes(n, k)
    numbers = w.astype(np.float64) - 128
    wanted = x.astype(np.float64) @ numbers.T
    off = np.abs(run(isa, f"{n}_{k}", x, w) - wanted)
    allowed = bound(x.astype(np.float64), numbers, wanted)
    for name, error, most in zip(hostile_rows(k), off, allowed, strict=True):
        assert (error <= most * 1.0001).all(), name


@pytest.mark.parametrize("isa", ISAS)
def test_an_outlier_leaves_something_of_the_rest_of_a_row(isa: Isa) -> None:
    """A weight of zero meets the outlier: what is left is the sum of numbers 10^4 times smaller."""
    x = hostile_rows(389)["outlier"].astype(np.float32)[None]
    w = codes(21, 389)
    w[:, 389 // 2] = 128
    wanted = x.astype(np.float64) @ (w.astype(np.float64) - 128).T
    assert relative_error(wanted, run(isa, "21_389", x, w)) <= FLOAT_BOUND / 2


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_that_is_not_finite_spoils_no_other(isa: Isa) -> None:
    x = np.random.default_rng(0).standard_normal((5, 389)).astype(np.float32)
    w = codes(21, 389)
    w[3, 7] = 128
    good = run(isa, "21_389", x, w)
    x[1, 7], x[2, 380], x[3, 0] = np.inf, -np.inf, np.nan
    made = run(isa, "21_389", x, w)
    with np.errstate(invalid="ignore"):
        wanted = x @ (w.astype(np.float32) - 128).T
    assert np.array_equal(made[[0, 4]], good[[0, 4]])
    np.testing.assert_array_equal(made[1:4], wanted[1:4])
    assert np.isnan(made[1, 3])
    assert np.isinf(made[1, 0])
    assert np.isnan(made[3]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_alone_is_a_row_among_others(isa: Isa, threads: int) -> None:
    """Across two parts of rows."""
    loader.set_threads(min(threads, loader.os.cpu_count() or 1))
    x = np.random.default_rng(0).standard_normal((dense_fixed.PART + 6, 192)).astype(np.float32)
    w = codes(100, 192)
    whole = run(isa, "100_192", x, w)
    alone = np.concatenate([run(isa, "100_192", row[None], w) for row in x])
    assert np.array_equal(alone, whole)


@pytest.mark.parametrize("isa", ISAS)
def test_without_a_zero_and_with_a_bias(isa: Isa) -> None:
    x = np.random.default_rng(0).standard_normal((3, 100)).astype(np.float32)
    w, bias = codes(33, 100), np.arange(33, dtype=np.float32)
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    plain, biased = run(isa, "plain", x, w), run(isa, "bias", x, w, bias)
    np.testing.assert_allclose(plain, exact, 2e-7)
    shifted = exact - 128 * x.astype(np.float64).sum(1, keepdims=True) + bias
    np.testing.assert_allclose(biased, shifted, 2e-6, 1e-4)


def int4(n: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, steps of very different sizes, and the numbers that they stand for."""
    random = np.random.default_rng(n * k)
    steps = random.standard_normal((n, k // 32)) * 10.0 ** random.integers(-6, 1, (n, k // 32))
    packed, steps = codes(n, k // 2), steps.astype(np.float16)
    (op,) = (op for op in body_of_int4(n, k) if isinstance(op, DequantizeInt4))
    return packed, steps, op.reference(packed, steps).astype(np.float64)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", INT4)
def test_four_bits_are_as_exact_as_floats(isa: Isa, shape: tuple[int, int]) -> None:
    """As the docstring of `dense_int4` bounds it."""
    n, k = shape
    x = np.stack([*hostile_rows(k).values()]).astype(np.float32)
    packed, steps, numbers = int4(n, k)
    wanted = x.astype(np.float64) @ numbers.T
    off = np.abs(run(isa, f"int4_{n}_{k}", x, packed, steps) - wanted)
    whole = np.abs(x.astype(np.float64)) @ np.abs(numbers).T
    largest = np.abs(x.astype(np.float64)).max(-1, keepdims=True)
    allowed = 2.0**-22 * largest * np.abs(numbers).sum(1)
    allowed += 2.0**-24 * (k // 32 + 8) * whole + 2.0**-149 * k
    for name, error, most in zip(hostile_rows(k), off, allowed, strict=True):
        assert (error <= most).all(), name


@pytest.mark.parametrize("isa", ISAS)
def test_four_bits_of_a_row_alone_and_of_one_that_is_not_finite(isa: Isa) -> None:
    x = np.random.default_rng(0).standard_normal((dense_fixed.PART + 7, 2560)).astype(np.float32)
    packed, steps, _ = int4(100, 2560)
    x[3, 5], x[34, 2559] = np.inf, np.nan
    whole = run(isa, "int4_100_2560", x, packed, steps)
    alone = [run(isa, "int4_100_2560", row[None], packed, steps) for row in x]
    assert np.array_equal(np.concatenate(alone), whole, equal_nan=True)
    assert not np.isfinite(whole[3]).any()
    assert np.isnan(whole[34]).all()
    assert np.isfinite(np.delete(whole, [3, 34], 0)).all()


def test_what_has_no_such_kernel_is_widened() -> None:
    other = graph_of("linear", {"y": Linear(
        Input("x", TensorType(DType.F32, (3, 8))),
        Cast(Input("w", TensorType(DType.BF16, (4, 8))), DType.F32),
    )})  # fmt: skip
    too_long = body_of(4, dense_bytes.MAX_COLUMNS + 1)
    between = body_of(4, 8, zero=0.5)
    for body in (other, too_long, between):
        (op,) = (op for op in body if isinstance(op, Linear))
        assert dense_bytes.matrix_of_bytes(op) is None
