"""`to-fixed-point`: near the floats, within its widths, and what it refuses."""

# pyright: reportUnknownLambdaType=false
# The tables below are full of lambdas.
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest

from mmc.api import import_source
from mmc.driver import REWRITE, analyse
from mmc.errors import MmcError
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Op, Value
from mmc.ir.ops.fixed import FixedRequantize
from mmc.ir.ops.fixed_gates import FixedAdd, FixedProduct, FixedRecurrence
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.pointwise import Add, Silu
from mmc.ir.ops.shape import Gather
from mmc.ir.ops.source import Input
from mmc.ir.ops.ternary import AbsMax, Dequantize, Quantize, RmsNormQuantize, TernaryMatmul
from mmc.ir.tensors import Tensors
from mmc.ir.text import parse, render
from mmc.ir.types import DType, TensorType, static_shape, symbol
from mmc.passes.fixed_ranges import MOST_COLUMNS, as_integers, product_bound, scalar_of
from mmc.passes.manager import PassManager
from mmc.passes.registry import load_pass
from tests.end_to_end.compiled import EXAMPLE, token_ids, write_model
from tests.folders import workspace

SIZES = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 211}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "released": SIZES,
    "paper": {**SIZES, "gate_order": "paper", "use_lower_bound": False},
    "hgrn": {**SIZES, "gate_order": "hgrn", "expand_ratio": 2, "use_lower_bound": False},
}


@cache
def lowered(variant: str) -> tuple[Graph, Graph, Tensors]:
    """The graph of floats, that of integers, and their tensors."""
    if variant == "example":
        source = EXAMPLE
    else:
        source = write_model(workspace() / f"fixed-{variant}", VARIANTS[variant])
    done = analyse(import_source(source))
    names = [name for name in REWRITE if name != "merge-projections"]
    core = done.manager.run(done.core, [load_pass(n) for n in (*names, "fold-constants")])
    fixed = done.manager.run(core, [load_pass("to-fixed-point")])
    return core, fixed, done.imported.tensors


def run(graph: Graph, tensors: Tensors, ids: np.ndarray, observe: Any = None) -> np.ndarray:
    states = {
        op.name: np.zeros(static_shape(op.type.bind({"B": len(ids)}).shape), op.type.dtype.numpy)
        for op in graph.inputs
        if op.name in graph.states
    }
    inputs = {"ids": ids, "lengths": np.full(len(ids), ids.shape[1]), **states}
    return evaluate(graph, inputs, tensors, observe)["logits"]


@pytest.mark.parametrize("variant", ["example", *VARIANTS])
def test_logits_are_near_those_of_floats(variant: str) -> None:
    """Codes that round the other way are most of the difference; the example has 37 layers."""
    core, fixed, tensors = lowered(variant)
    vocabulary = 8192 if variant == "example" else 211
    ids = token_ids(vocabulary, 1, 48)
    floats, integers = run(core, tensors, ids), run(fixed, tensors, ids)
    error = np.sqrt(np.square(floats - integers).mean() / np.square(floats).mean())
    assert error < 0.03
    assert parse(render(fixed)) is fixed


def test_products_are_those_of_the_float_graph() -> None:
    core, fixed, _ = lowered("example")
    products = [[op.w for op in g if isinstance(op, TernaryMatmul)] for g in (core, fixed)]
    assert products[0] == products[1]
    assert {v.type.dtype for op in fixed for v in op.results if v not in fixed.values} <= {
        DType.I8, DType.I16, DType.I32, DType.I64, DType.TERNARY
    }  # fmt: skip


@pytest.mark.parametrize("variant", ["example", *VARIANTS])
def test_nothing_comes_near_its_width(variant: str) -> None:
    """Bounds hold for any text: what real text makes is far below, and nothing saturates."""
    _, fixed, tensors = lowered(variant)
    seen = 0

    def observe(op: Op, made: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        nonlocal seen
        bits = op.bits if isinstance(op, FixedRequantize) else 27
        if isinstance(op, FixedRequantize | FixedAdd | FixedProduct | FixedRecurrence):
            seen += 1
            assert np.abs(made[0]).max() < 1 << (bits - 1), op.origin
        return made

    run(fixed, tensors, token_ids(100, 2, 32), observe)
    assert seen > 20


def test_bound_of_a_product_is_reached_by_its_worst_input() -> None:
    rng = np.random.default_rng(0)
    trits, gain = rng.integers(-1, 2, (20, 64)).astype(np.int8), rng.normal(size=64)
    bound = product_bound(trits, gain, 0.5)
    worst = 0.0
    for row in trits * gain:
        x = row / np.sqrt(np.square(row).mean())  # normalised, along the row
        step = np.abs(x * gain).max() / 127
        q = np.rint(x * gain / step)
        worst = max(worst, 0.5 * float((q * step * (row / gain)).sum()))
    assert worst <= bound < 1.5 * worst


def test_numbers_as_integers() -> None:
    for real in (1e-9, 0.75, 1.0, 65535.999, 3e12):
        m, e = scalar_of(real)
        assert 1 << 15 <= m < 1 << 16
        assert abs(m * 2.0**-e / real - 1) < 2**-15
    integers, fraction = as_integers(np.array([0.3, -0.9999, 0.0]), 16)
    assert np.abs(integers).max() < 1 << 15
    assert np.abs(integers * 2.0**-fraction - [0.3, -0.9999, 0.0]).max() <= 2.0 ** -(fraction + 1)
    assert as_integers(np.zeros(3), 16)[0].tolist() == [0, 0, 0]


# What it refuses.

Build = Callable[[Tensors, Value], Value]


def weight(tensors: Tensors, name: str, array: np.ndarray, dtype: DType = DType.F32) -> Value:
    return tensors.add(name, TensorType(dtype, array.shape), array)


def head(
    tensors: Tensors, x: Value, by: AbsMax | None = None, scale: float | list[float] = 0.1,
    columns: int = 8,
) -> Value:  # fmt: skip
    q, s = RmsNormQuantize(x, None, 1e-6, by or AbsMax()).results
    trits = weight(tensors, "head", np.ones((3, columns), np.int8), DType.TERNARY)
    steps = weight(tensors, "scale", np.array(scale, np.float32))
    return Dequantize(TernaryMatmul(q, trits), s, steps)


def without_norm(tensors: Tensors, x: Value) -> Value:
    q, s = Quantize(x, AbsMax()).results
    trits = weight(tensors, "head", np.ones((3, 8), np.int8), DType.TERNARY)
    return Dequantize(TernaryMatmul(q, trits), s, None)


def activated(tensors: Tensors, x: Value, scale: float) -> Value:
    made = head(tensors, x, scale=scale)
    q, s = RmsNormQuantize(Silu(made), None, 1e-6, AbsMax()).results
    trits = weight(tensors, "last", np.ones((2, 3), np.int8), DType.TERNARY)
    return Dequantize(TernaryMatmul(q, trits), s, None)


@pytest.mark.parametrize(
    ("build", "columns", "message"),
    [
        (lambda t, x: head(t, x, AbsMax(range=128.0)), 8, "only 127 a token"),
        (lambda t, x: head(t, x, AbsMax(granularity="tensor")), 8, "only 127 a token"),
        (lambda t, x: head(t, x, scale=[1.0, 2.0, 3.0]), 8, "3 scales, not one"),
        (lambda t, x: head(t, x, scale=-1.0), 8, "not one above zero"),
        (without_norm, 8, "quantize has no form"),
        (lambda t, x: activated(t, x, 1e4), 8, "too much for a table of sigmoid"),
        (lambda t, x: Silu(Add(x, Silu(x))), 8, "not of the residual stream"),
        (lambda t, x: Linear(x, weight(t, "w", np.ones((3, 8))), None), 8, "a dense head of"),
        (
            lambda t, x: head(t, x, columns=MOST_COLUMNS + 1),
            MOST_COLUMNS + 1,
            f"{MOST_COLUMNS + 1} columns, and sums have room for {MOST_COLUMNS}",
        ),
    ],
)  # fmt: skip
def test_refused(build: Build, columns: int, message: str) -> None:
    tensors = Tensors()
    table = weight(tensors, "embedding", np.ones((5, columns), np.float32))
    ids = Input("ids", TensorType(DType.I64, (symbol("B"), symbol("T"))))
    graph = graph_of("g", {"logits": build(tensors, Gather(table, ids))}, [ids])
    with pytest.raises(MmcError) as error:
        PassManager(tensors).run(graph, [load_pass("to-fixed-point")])
    assert re.search(message, str(error.value))
