"""The interpreter: symbols from shapes, memory given back, errors that say where."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from mmc.errors import MmcError
from mmc.ir.evaluate import Arrays, bind_inputs, evaluate, value_of
from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Op, Origin, origin
from mmc.ir.ops.pointwise import Add, Exp, Mul, Neg, Pow
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.reduce import Sum
from mmc.ir.ops.shape import Expand, Gather, Reshape
from mmc.ir.ops.source import Iota, Weight, scalar
from mmc.ir.ops.ternary import AbsMax, Quantize, TernaryMatmul
from mmc.ir.types import DType, TensorType
from tests.inputs import B, T, given
from tests.random_graphs import (
    check_types,
    random_graph,
    random_inputs,
    random_tensors,
    same_outputs,
)


def ones(*dims: int) -> np.ndarray:
    return np.ones(dims, np.float32)


X = given("x", B, T, 4)


def test_random_graphs_run_and_have_the_types_that_were_inferred() -> None:
    for seed in range(200):
        graph = random_graph(seed, 3 + seed % 40)
        inputs, tensors = random_inputs(graph), random_tensors(graph)
        once = evaluate(graph, inputs, tensors, check_types)
        assert same_outputs(once, evaluate(graph, inputs, tensors))


def test_binding_the_symbols_first_changes_nothing() -> None:
    for seed in range(60):
        graph = random_graph(seed, 25)
        inputs, tensors = random_inputs(graph), random_tensors(graph)
        bound = graph.bind(bind_inputs(graph, inputs)).verify()
        assert same_outputs(evaluate(graph, inputs, tensors), evaluate(bound, inputs, tensors))


def test_shapes_give_symbols_their_numbers() -> None:
    graph = graph_of("g", {"y": Reshape(X, (B * T, 4)), "n": Iota(T + B)}, [X])
    found = evaluate(graph, {"x": ones(2, 3, 4)})
    assert found["y"].shape == (6, 4)
    assert found["n"].tolist() == [0, 1, 2, 3, 4]


def test_a_product_may_come_before_its_factors() -> None:
    graph = graph_of("g", {"y": given("flat", B * T), "x": X})
    assert bind_inputs(graph, {"flat": ones(6), "x": ones(2, 3, 4)}) == {"B": 2, "T": 3}
    with pytest.raises(MmcError, match=r"input 'flat' has shape \[7\], needs f32\[B\*T\]"):
        bind_inputs(graph, {"flat": ones(7), "x": ones(2, 3, 4)})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "@g: input 'x' is missing"),
        ({"x": ones(2, 4), "y": ones(3)}, r"'x' has shape \[2, 4\], needs f32\[B, T, 4\]"),
        ({"x": ones(2, 3, 5), "y": ones(3)}, r"'x' has shape \[2, 3, 5\]"),
        ({"x": ones(2, 3, 4), "y": ones(2)}, r"'y' has shape \[2\], needs f32\[T\]"),
    ],
)
def test_inputs_that_do_not_fit(arrays: dict[str, np.ndarray], message: str) -> None:
    graph = graph_of("g", {"x": X, "y": given("y", T)})
    with pytest.raises(MmcError, match=message):
        evaluate(graph, arrays)


def test_packed_inputs_are_flat_bytes() -> None:
    w = given("w", 16, 16, dtype=DType.TERNARY_2BIT)
    graph = graph_of("g", {"y": TernaryMatmul(given("q", 16, dtype=DType.I8), w)})
    packed = np.full(64, 0b01010101, np.uint8)  # all zeros
    found = evaluate(graph, {"q": np.ones(16, np.int8), "w": packed})
    assert found["y"].tolist() == [0] * 16


def test_an_error_names_operation_and_origin() -> None:
    with origin(Origin("embedding", "model.py:5")):
        rows = Gather(given("table", 3, 4), given("ids", T, dtype=DType.I64))
    graph = graph_of("g", {"y": rows})
    with pytest.raises(MmcError, match=r"embedding, model.py:5: gather: index 9 is outside"):
        evaluate(graph, {"table": ones(3, 4), "ids": np.array([0, 9])})
    power = Pow(given("a", 1, dtype=DType.I32), scalar(-1, DType.I32))
    with pytest.raises(MmcError, match="pow: Integers to negative"):
        evaluate(graph_of("g", {"y": power}), {"a": np.array([2], np.int32)})


def test_a_dimension_without_a_number_is_an_error() -> None:
    graph = graph_of("g", {"y": Expand(scalar(1.0), (T,))})
    with pytest.raises(MmcError, match="dimension T has no value yet"):
        evaluate(graph, {})


def test_a_body_knows_the_symbols_of_the_graph_around_it() -> None:
    """Its own inputs need not show them."""
    body = graph_of("k", {"y": Neg(Iota(T))})
    graph = graph_of("g", {"y": Kernel((), body)}, [X])
    assert evaluate(graph, {"x": ones(1, 3, 4)})["y"].tolist() == [0, -1, -2]


def test_overflow_is_silent() -> None:
    graph = graph_of("g", {"y": Exp(X)})
    assert np.isinf(evaluate(graph, {"x": ones(1, 1, 4) * 1000})["y"]).all()


def test_observe_sees_every_result_and_changes_what_readers_see() -> None:
    q, s = Quantize(X, AbsMax())
    graph = graph_of("g", {"q": q, "s": s, "y": Add(Neg(X), X)})
    seen: list[str] = []

    def observe(op: Op, made: Arrays) -> Arrays:
        seen.append(f"{op.mnemonic} {len(made)}")
        return (made[0] * 0,) if isinstance(op, Neg) else made

    found = evaluate(graph, {"x": ones(1, 1, 4)}, observe=observe)
    assert seen == ["input 1", "quantize 2", "neg 1", "add 1"]
    assert found["y"].tolist() == [[[1] * 4]]


def test_arrays_are_given_back_after_their_last_reader() -> None:
    """At no time are more than a few of the arrays of a long chain alive."""
    value = Neg(X)
    for _ in range(50):
        value = Neg(value)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def observe(_: Op, made: Arrays) -> Arrays:
        nonlocal most
        alive.extend(weakref.ref(a) for a in made)
        gc.collect(0)
        most = max(most, sum(ref() is not None for ref in alive))
        return made

    evaluate(graph_of("g", {"y": value}), {"x": ones(2, 3, 4)}, observe=observe)
    assert most <= 4


def test_a_value_read_twice_and_returned_twice_stays() -> None:
    y = Neg(X)
    graph = graph_of("g", {"a": y, "b": Add(y, y), "c": y, "x": X})
    found = evaluate(graph, {"x": ones(1, 1, 4)})
    assert found["a"].tolist() == found["c"].tolist() == [[[-1] * 4]]
    assert found["x"] is not found["a"]


def test_value_of_a_recipe() -> None:
    w = Weight("w", TensorType(DType.F32, (2, 2)))
    found = value_of(Mul(Sum(w, 1), scalar(2.0)), {"w": np.float32([[1, 2], [3, 4]])})  # pyright: ignore
    assert found.tolist() == [[6], [14]]


def test_nothing_is_computed_that_no_output_needs() -> None:
    seen: list[Op] = []

    def observe(op: Op, made: Arrays) -> Arrays:
        seen.append(op)
        return made

    evaluate(Graph("g", (X,), (("y", X),)), {"x": ones(1, 1, 4)}, observe=observe)
    assert seen == [X]
