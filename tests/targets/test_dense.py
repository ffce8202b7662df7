"""Dense products against numpy in float64, for shapes and numbers that a tile does not fit."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.pointwise import Add, Cast, Silu
from mmc.ir.ops.source import Input, scalar
from mmc.ir.types import DType, TensorType
from mmc.targets.tvm import dense, host, loader
from tests.inputs import B, T
from tests.targets.kernel_programs import aligned, program_of

SHAPES = [(1, 1), (7, 15), (16, 16), (5, 31), (33, 47), (100, 64), (21, 389)]
"""Rows and columns of the matrix."""
KINDS = ("f32", "bf16", "f16", "codes", "bias")


def product(kind: str, n: int, k: int) -> Graph:
    x = Input("x", TensorType(DType.F32, (B, T, k)))
    stored = {"bf16": DType.BF16, "f16": DType.F16, "codes": DType.U8}.get(kind, DType.F32)
    given = Input("w", TensorType(stored, (n, k)))
    w = given if stored is DType.F32 else Cast(given, DType.F32)
    w = Add(w, scalar(-128.0)) if kind == "codes" else w
    bias = Input("bias", TensorType(DType.F32, (n,))) if kind == "bias" else None
    return graph_of("linear", {"y": Linear(x, w, bias)})


@cache
def program() -> loader.Program:
    """A kernel for each kind and shape, in one object file."""
    kernels: dict[str, host.Kernel] = {}
    for kind in KINDS:
        for n, k in SHAPES:
            flat = dense.flatten(product(kind, n, k))
            assert flat is not None
            kernels[f"{kind}_{n}_{k}"] = dense.emit(flat[0], f"kernel_{kind}_{n}_{k}")
    return program_of(kernels)


def arrays_for(kind: str, n: int, k: int, rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(n + k)
    body = product(kind, n, k)
    made = {
        "x": random.standard_normal((1, rows, k)),
        "w": random.integers(1, 256, (n, k)) if kind == "codes" else random.random((n, k)) - 0.5,
        "bias": random.standard_normal(n),
    }
    return {op.name: made[op.name].astype(op.type.dtype.numpy) for op in body.inputs}


def run(kind: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    rows, n = arrays["x"].shape[1], arrays["w"].shape[0]
    body = product(kind, n, arrays["w"].shape[1])
    out = aligned(np.full((1, rows, n), np.nan, np.float32))
    inputs = [aligned(arrays[op.name]) for op in body.inputs]
    tensors = (loader.as_tensor(array) for array in (*inputs, out))
    program()[f"{kind}_{n}_{arrays['w'].shape[1]}"](*tensors, rows)
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_it_is_the_interpreters_product(kind: str, shape: tuple[int, int], rows: int) -> None:
    arrays = arrays_for(kind, *shape, rows)
    wanted = evaluate(product(kind, *shape), arrays)["y"]
    np.testing.assert_allclose(run(kind, arrays), wanted, 1e-5, 1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_is_a_row_among_others(kind: str) -> None:
    arrays = arrays_for(kind, 100, 64, 8)
    whole = run(kind, arrays)
    for t in range(8):
        alone = run(kind, {**arrays, "x": arrays["x"][:, t : t + 1]})
        assert np.array_equal(alone[:, 0], whole[:, t])


def test_threads_do_not_change_a_bit() -> None:
    arrays = arrays_for("f32", 100, 64, 40)
    made: list[np.ndarray] = []
    for threads in (1, min(2, loader.os.cpu_count() or 1)):
        loader.set_threads(threads)
        made.append(run("f32", arrays))
    assert np.array_equal(made[0], made[1])


def test_other_bodies_are_not_taken() -> None:
    x = Input("x", TensorType(DType.F32, (B, T, 8)))
    w = Input("w", TensorType(DType.F32, (8, 8)))
    behind = graph_of("behind", {"y": Silu(Linear(x, w))})
    before = graph_of("before", {"y": Linear(Silu(x), w)})
    itself = graph_of("itself", {"y": Linear(w, w)})
    assert not any(map(dense.flatten, (behind, before, itself)))
