"""Graphs: what they hold, what `verify` refuses, and rebuilding them."""

from __future__ import annotations

import numpy as np
import pytest

from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of, nested_graphs, value_types
from mmc.ir.intern import own_world
from mmc.ir.op import Op, Origin, Value, VerifyError, origin
from mmc.ir.ops.pointwise import Abs, Add, Detach, Exp, Mul, Neg
from mmc.ir.ops.recurrence import Kernel, LinearRecurrence, Scan
from mmc.ir.ops.shape import Expand, Reshape
from mmc.ir.ops.source import Input, Iota, Weight, scalar
from mmc.ir.ops.ternary import AbsMax, Quantize
from mmc.ir.text import render
from mmc.ir.types import DType, TensorType, symbol
from tests.inputs import B, T, given

X, Y = given("x", B, T, 4), given("y", B, T, 4)


def test_equal_graphs_are_one_object() -> None:
    assert graph_of("g", {"z": Add(X, Y)}) is graph_of("g", {"z": Add(X, Y)})
    assert graph_of("g", {"z": Add(X, Y)}) is not graph_of("h", {"z": Add(X, Y)})
    assert graph_of("g", {"z": Add(X, Y)}) is not graph_of("g", {"y": Add(X, Y)})
    assert graph_of("g", {"z": Add(X, Y)}) is not graph_of("g", {"z": Add(X, Y)}, [Y, X])


def test_inputs_keep_the_callers_order_used_or_not() -> None:
    unused = given("unused", 3)
    graph = graph_of("g", {"z": Neg(X)}, [unused, X])
    assert [op.name for op in graph.inputs] == ["unused", "x"]
    assert graph.ops[:2] == (unused, X)
    same, _ = graph.map(lambda _, moved: moved)
    assert same is graph


def test_inputs_that_are_not_listed_follow() -> None:
    graph = graph_of("g", {"z": Add(Y, X)}, [])
    assert [op.name for op in graph.inputs] == ["y", "x"]


def test_operations_come_inputs_first_and_definitions_before_uses() -> None:
    graph = graph_of("g", {"a": Add(Neg(X), Exp(Y)), "b": Neg(X)}, [X, Y])
    assert [op.mnemonic for op in graph] == ["input", "input", "neg", "exp", "add"]
    assert graph.users[X] == (Neg(X),)
    assert graph_of("g", {"a": Mul(X, X)}).users[X] == (Mul(X, X), Mul(X, X))


def test_stray_inputs_are_refused() -> None:
    with pytest.raises(VerifyError, match=r"@g reads \['y'\], which are not among its inputs"):
        Graph("g", (X,), (("z", Add(X, Y)),)).verify()


def test_two_inputs_of_one_name_are_refused() -> None:
    other = given("x", 3)
    with pytest.raises(VerifyError, match="two inputs of one name"):
        graph_of("g", {"a": X, "b": other})


def test_two_outputs_of_one_name_are_refused() -> None:
    with pytest.raises(VerifyError, match="two outputs of one name"):
        Graph("g", (X,), (("z", X), ("z", Neg(X)))).verify()


def test_a_wrong_operation_in_a_nested_graph_is_found() -> None:
    x = given("x0", 4)
    body = Graph("body", (x,), (("y", Add(x, given("x0", 5))),))
    with pytest.raises(VerifyError, match="do not broadcast"):
        graph_of("g", {"y": Kernel((given("a", 4),), body)})


def test_states_are_inputs_and_outputs_of_one_name() -> None:
    h, unrelated = given("h", 4), given("u", 4)
    graph = graph_of("g", {"h": Neg(h), "z": Abs(unrelated)})
    assert graph.states == ("h",)


def test_weights_and_types() -> None:
    w = Weight("w", TensorType(DType.F32, (4,)))
    graph = graph_of("g", {"z": Mul(Mul(X, w), w)})
    assert graph.weights == (w,)
    assert value_types(graph) == {"z": X.declared}
    assert graph.renamed("h").name == "h"


def test_map_rebuilds_what_depends_on_a_change() -> None:
    graph = graph_of("g", {"a": Neg(Exp(X)), "b": Abs(X)})
    after, mapped = graph.map(lambda old, moved: X if isinstance(old, Exp) else moved)
    assert after.values == (Neg(X), Abs(X))
    assert mapped[Exp(X)] is X
    assert mapped[Neg(Exp(X))] is Neg(X)


def test_map_replaces_several_results() -> None:
    q, s = Quantize(X, AbsMax())
    graph = graph_of("g", {"q": q, "s": s})
    other = Quantize(X, AbsMax(eps=1.0))
    step = {Quantize(X, AbsMax()): other}
    after, mapped = graph.map(lambda old, moved: step.get(old, moved))  # pyright: ignore
    assert after.values == other.results
    assert mapped[q] == other.results[0]
    swapped, _ = graph.map(
        lambda old, moved: (q, other.results[1]) if isinstance(old, Quantize) else moved
    )
    assert swapped.values == (q, other.results[1])


def test_map_wants_a_value_for_each_result() -> None:
    graph = graph_of("g", {"q": Quantize(X, AbsMax()).results[0]})
    with pytest.raises(ValueError, match="zip"):
        graph.map(lambda old, moved: X if isinstance(old, Quantize) else moved)


def test_map_checks_what_a_step_makes() -> None:
    graph = graph_of("g", {"z": Neg(X)})
    with pytest.raises(VerifyError, match="do not broadcast"):
        graph.map(lambda old, moved: Add(X, given("w", 3)) if old is Neg(X) else moved)


def test_binding_numbers_reaches_attributes_and_nested_graphs() -> None:
    h, x = given("h", B, 4), given("x_t", B, 4)
    body = graph_of("step", {"h": Mul(h, Expand(scalar(0.5), (B, 4))), "y": x}, [h, x])
    scan = Scan((given("h0", B, 4),), (X,), (), body, 1)
    flat = Reshape(scan.results[1], (B * T, 4))
    graph = graph_of("g", {"flat": flat, "n": Iota(T, 1)})
    one = graph.bind({"T": 1, "B": 2})
    assert str(value_types(one)["flat"]) == "f32[2, 4]"
    assert str(value_types(one)["n"]) == "i64[1]"
    assert not [t for op in one for t in op.types if any(not isinstance(d, int) for d in t.shape)]
    [bound] = [op for op in one if isinstance(op, Scan)]
    assert str(bound.body.inputs[0].type) == "f32[2, 4]"
    numbers = {"x": np.ones((2, 1, 4), np.float32), "h0": np.ones((2, 4), np.float32)}
    assert evaluate(one, numbers)["flat"].shape == (2, 4)
    assert graph.bind({}) is graph


def test_binding_keeps_origins() -> None:
    with origin(Origin("layers.0")):
        made = Reshape(given("z", T, 4), (4 * T,))
    bound = graph_of("g", {"z": made}).bind({"T": 3})
    assert [str(op.origin) for op in bound.ops] == ["None", "layers.0"]


def test_a_nested_graph_is_compared_by_identity() -> None:
    def kernel(value: Value) -> Op:
        x = given("x0", 4)
        return Kernel((given("a", 4),), graph_of("body", {"y": Neg(x) if value is X else Abs(x)}))

    assert kernel(X) is kernel(X)
    assert kernel(X) is not kernel(Y)
    assert nested_graphs(kernel(X)) == (graph_of("body", {"y": Neg(given("x0", 4))}),)


def test_the_same_name_inside_and_outside() -> None:
    """A body's input may be called like one of the graph around it, and even be the same object."""
    x = given("x", 4)
    body = graph_of("body", {"y": Neg(x)})
    graph = graph_of("g", {"y": Kernel((Detach(x),), body)})
    assert evaluate(graph, {"x": np.arange(4, dtype=np.float32)})["y"].tolist() == [0, -1, -2, -3]


def test_a_recurrence_needs_no_symbol() -> None:
    a = given("a", B, 3, 4)
    graph = graph_of("g", {"h": LinearRecurrence(a, a, given("h0", B, 4))})
    assert str(value_types(graph)["h"]) == "f32[B, 3, 4]"


def test_a_world_lends_no_origins() -> None:
    """Another model that is alive in the process must not change what this one writes."""

    def graph() -> Graph:
        x = Input("x", TensorType(DType.F32, (symbol("B"),)))
        return graph_of("g", {"y": Neg(x)}, [x])

    with origin(Origin("elsewhere", "other.py:1")):
        other = graph()
    with own_world():
        mine = graph()
        assert mine is graph()
        assert "elsewhere" not in render(mine)
    assert "elsewhere" in render(other)
    assert mine is not other
