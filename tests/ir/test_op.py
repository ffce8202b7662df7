"""Operations: equal ones are one object, and no graph is too deep or too wide for them."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Op, Origin, Value, VerifyError, origin, producer
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.norm import RmsNorm
from mmc.ir.ops.pointwise import Abs, Add, Clamp, Neg
from mmc.ir.ops.shape import Pad, Permute
from mmc.ir.ops.source import Constant, Input, Weight, scalar
from mmc.ir.ops.ternary import AbsMax, Quantize
from mmc.ir.text import parse, render
from mmc.ir.types import DType, TensorType, symbol

F32 = TensorType(DType.F32, (symbol("B"), 4))
X = Input("x", F32)
Y = Input("y", F32)


def test_equal_operations_are_one_object() -> None:
    assert Add(X, Y) is Add(X, Y)
    assert Add(X, Y) is not Add(Y, X)
    assert Neg(X) is not Abs(X)
    assert Input("x", F32) is X
    assert Input("x", F32) is not Weight("x", F32)


def constant(value: Any) -> Op:
    return Constant(value, F32)


def clamp(value: Any) -> Op:
    return Clamp(X, value, None)


def pad(value: Any) -> Op:
    return Pad(X, -1, 1, 1, value)


@pytest.mark.parametrize("make", [constant, clamp, pad])
def test_numbers_that_compare_equal_are_told_apart(make: Callable[[object], Op]) -> None:
    values = (1, 1.0, True, 0, 0.0, -0.0, False)
    ops = [make(value) for value in values]
    assert all(a is not b for a, b in itertools.combinations(ops, 2))
    for value, op in zip(values, ops, strict=True):
        assert make(value) is op
        kept = [v for v in op.fields if isinstance(v, int | float)][-1]
        assert (repr(kept), type(kept)) == (repr(value), type(value)) or kept == 1


def test_numbers_are_told_apart_inside_records_and_tuples() -> None:
    by = AbsMax(eps=0.0)
    assert Quantize(X, by) is Quantize(X, AbsMax(eps=0.0))
    assert Quantize(X, by) is not Quantize(X, AbsMax(eps=-0.0))
    body = graph_of("body", {"y": X})
    assert Permute(X, (0, 1)) is not Permute(X, (False, True))  # pyright: ignore
    assert body is graph_of("body", {"y": X})


def test_not_a_number_is_one_attribute() -> None:
    nan = float("nan")
    assert scalar(nan) is scalar(float("nan"))
    assert Quantize(X, AbsMax(eps=nan)) is Quantize(X, AbsMax(eps=float("nan")))
    assert scalar(float("inf")) is not scalar(float("-inf"))


def test_a_record_has_one_spelling() -> None:
    """A checkpoint may say 127 or 127.0."""
    assert Quantize(X, AbsMax(range=127)) is Quantize(X, AbsMax(range=127.0))


def test_numpy_floats_are_floats() -> None:
    assert scalar(np.float64(0.1)) is scalar(0.1)
    assert "value=0.1 " in render(graph_of("g", {"y": scalar(np.float64(0.1))}))


def test_an_operation_that_nobody_holds_is_forgotten() -> None:
    op = Neg(Abs(Weight("only here", F32)))
    forgotten = weakref.ref(op)
    del op
    gc.collect()
    assert forgotten() is None


def test_repr_prints_no_operands() -> None:
    value: Value = X
    for _ in range(16):
        value = Add(value, value)
    assert repr(value) == "<add>"
    assert len(repr(graph_of("g", {"y": value}))) < 50


def test_a_graph_of_shared_operands_stays_linear() -> None:
    """200 additions of a value to itself: 2**200 if anything walked the paths."""
    value: Value = X
    for _ in range(200):
        value = Add(value, value)
    graph = graph_of("g", {"y": value})
    assert len(graph) == 201
    text = render(graph)
    assert len(text) < 20_000
    assert parse(text) is graph
    assert graph.map(lambda _, moved: moved)[0] is graph


def test_the_number_of_results_is_declared() -> None:
    """Also for operands that do not fit, and without looking at them."""
    wrong = Quantize(Input("n", TensorType(DType.I32, (4,))), AbsMax())
    assert wrong.result_names == ("q", "s")
    assert len(wrong.results) == 2
    q, s = wrong
    assert producer(q) is producer(s) is wrong
    with pytest.raises(VerifyError, match="x is i32"):
        _ = q.type
    with pytest.raises(VerifyError, match="several results"):
        _ = Quantize(X, AbsMax()).type
    assert Neg(X).results == (Neg(X),)


def test_results_of_one_operation_are_equal_values() -> None:
    op = Quantize(X, AbsMax())
    assert op.results[0] == op.results[0]
    assert op.results[0] != op.results[1]
    assert Neg(op.results[0]) is Neg(op.results[0])


def test_origin_is_no_identity() -> None:
    with origin(Origin("layers.0", "model.py:1")):
        first = Neg(Neg(Input("o", F32)))
    with origin(Origin("layers.1")):
        second = Neg(Neg(Input("o", F32)))
    assert first is second
    assert str(first.origin) == "layers.0, model.py:1"
    assert Input("o", F32).origin is None  # sources have no place of their own


def _to_q(_: Value) -> Value:
    return Input("q", F32)


def test_a_rebuilt_operation_keeps_its_origin() -> None:
    with origin(Origin("layers.7")):
        op = Neg(Input("p", F32))
    moved = op.rebuild(_to_q)
    assert moved is Neg(Input("q", F32))
    assert str(moved.origin) == "layers.7"


def test_a_message_names_operation_and_origin() -> None:
    with origin(Origin("layers.3.mlp.up", "model.py:212")):
        op = Add(Input("a", F32), Input("b", TensorType(DType.I32, (4,))))
    with pytest.raises(VerifyError, match=r"^add at layers.3.mlp.up, model.py:212: .*f32 and i32"):
        _ = op.type


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (RmsNorm(X, None, "small"), "eps is 'small', not float"),  # pyright: ignore
        (Neg(None), "x is None, not Value"),  # pyright: ignore
        (Add(X, (Y,)), r"y is \(<input>,\), not Value"),  # pyright: ignore
        (Pad(X, True, 1, 1), "axis is True, not int"),
        (Quantize(X, AbsMax(low=1.5)), "low is 1.5, not int"),  # pyright: ignore
        (Quantize(X, None), "by is None, not AbsMax"),  # pyright: ignore
        (Linear(X, Y, 3), "bias is 3, not Value | None"),  # pyright: ignore
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(op: Op, message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        _ = op.types


def test_a_mnemonic_is_given_once() -> None:
    with pytest.raises(TypeError, match="two operations are called 'neg'"):
        type("Other", (Op,), {"__annotations__": {}}, mnemonic="neg")


def deep(length: int) -> Graph:
    value: Value = Input("x", F32)
    for n in range(length):
        value = Neg(value) if n % 2 else Abs(value)
    return graph_of("deep", {"y": value})


def test_a_deep_chain_overflows_nothing() -> None:
    graph = deep(20_000)
    assert len(graph) == 20_001
    assert graph.verify() is graph
    assert parse(render(graph)) is graph
    assert graph.map(lambda _, moved: moved)[0] is graph
    assert len(graph.bind({"B": 1})) == 20_001
    assert evaluate(graph, {"x": np.ones((1, 4), np.float32)})["y"][0, 0] == -1
    assert len(graph.users) == 20_001
    del graph
    gc.collect()
