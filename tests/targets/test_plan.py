"""Static memory plans: no live value is overwritten, whatever the batch and the tokens."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Value, producer
from mmc.ir.ops.pointwise import Add, Mul
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.shape import Reshape
from mmc.ir.ops.source import Input, Weight
from mmc.ir.text import parse
from mmc.ir.types import DType, TensorType, bind_dim, symbol
from mmc.targets.layout import ALIGNMENT, int8_row_bytes
from mmc.targets.tvm.plan import (
    Plan,
    root_of,
    storage_bytes,
    storage_type,
    symbols_of,
    unplaced,
)
from tests.end_to_end.compiled import artifact

ROWS = TensorType(DType.F32, (symbol("B"), symbol("T"), 24))
SIZES = st.integers(1, 70)
Span = tuple[str, int, int]


@cache
def graph(name: str, entry: str) -> Graph:
    return parse((artifact(name) / entry).read_text())


def span(plan: Plan, value: Value, sizes: dict[str, int]) -> Span:
    """The arena of a value and the bytes that it takes there."""
    place = plan.locations[value]
    starts = plan.arenas[place.arena].offsets(sizes)
    size = bind_dim(storage_bytes(value.type), sizes)
    assert isinstance(size, int)
    start = starts[place.slot]
    assert start % ALIGNMENT == 0
    assert start + size <= starts[place.slot + 1] <= starts[-1]
    return place.arena, start, start + size


def overlap(a: Span, b: Span) -> bool:
    return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]


def check_liveness(plan: Plan, sizes: dict[str, int]) -> None:
    """Run the program in thought: no kernel writes where something lies that is still needed."""
    needed: dict[Value, int] = {}
    for step, op in enumerate(plan.kernels):
        for value in op.operands:
            needed[root_of(value)] = step
    for value in plan.graph.values:
        needed[root_of(value)] = len(plan.kernels)
    live = {op: span(plan, op, sizes) for op in plan.graph.inputs}
    for step, op in enumerate(plan.kernels):
        for value in op.operands:
            root = root_of(value)
            assert isinstance(root, Weight) or root in live, "read before it was written"
        made = {value: span(plan, value, sizes) for value in op.results}
        for value, place in made.items():
            others = [*live.items(), *((v, p) for v, p in made.items() if v is not value)]
            assert [v for v, p in others if overlap(place, p)] == []
        live |= made
        live = {v: p for v, p in live.items() if needed.get(v, -1) > step}


@pytest.mark.parametrize("entry", ["graph.mmc", "graph-step.mmc"])
@pytest.mark.parametrize("name", ["tiny", "shared_conv", "example"])
@settings(max_examples=12, deadline=None)
@given(batch=SIZES, tokens=SIZES)
def test_no_two_live_values_overlap(name: str, entry: str, batch: int, tokens: int) -> None:
    sizes = {"B": batch, "T": tokens}
    for keep_all in (False, True):
        check_liveness(Plan(graph(name, entry), keep_all=keep_all), sizes)


def test_the_check_sees_a_slot_used_too_early() -> None:
    plan = Plan(graph("tiny", "graph.mmc"))
    places = plan.locations
    first = next(v for v in places if places[v].arena == "workspace")
    for value in places:
        if places[value].arena == "workspace":
            places[value] = places[first]
    with pytest.raises(AssertionError):
        check_liveness(plan, {"B": 1, "T": 1})


def test_memory_is_used_again() -> None:
    reused = Plan(graph("example", "graph.mmc")).arenas["workspace"]
    kept = Plan(graph("example", "graph.mmc"), keep_all=True).arenas["workspace"]
    sizes = {"B": 1, "T": 64}
    assert reused.offsets(sizes)[-1] < kept.offsets(sizes)[-1] / 3


def test_keep_all_gives_every_value_a_slot_of_its_own() -> None:
    plan = Plan(graph("tiny", "graph.mmc"), keep_all=True)
    places = [(p.arena, p.slot) for p in plan.locations.values()]
    assert len(set(places)) == len(places)


def test_states_leave_where_they_do_not_overwrite_what_came_in() -> None:
    plan = Plan(graph("tiny", "graph-step.mmc"))
    for op in plan.graph.inputs:
        assert plan.locations[op].arena == "inputs"
    for value in plan.graph.values:
        assert plan.locations[root_of(value)].arena == "outputs"


def kernel(*operands: Value) -> Value:
    """A kernel that adds the first operand to itself, or the first two."""
    inputs = [Input(f"x{n}", v.type) for n, v in enumerate(operands)]
    body = graph_of("add", {"y": Add(inputs[0], inputs[-1])}, inputs)
    made = Kernel(tuple(operands), body)
    return made.results[0]


X = Input("x", ROWS)


def test_output_that_is_an_input_or_a_weight_needs_no_memory() -> None:
    weight = Weight("w", TensorType(DType.F32, (24,)))
    plan = Plan(graph_of("main", {"x": X, "w": weight}, [X]))
    assert plan.arenas["outputs"].slots == []
    assert weight not in plan.locations


def test_same_output_twice_and_its_reshape_share_memory() -> None:
    y = kernel(X)
    flat = Reshape(y, (symbol("B") * symbol("T"), 24))
    plan = Plan(graph_of("main", {"a": y, "b": y, "c": flat}, [X]))
    assert len(plan.arenas["outputs"].slots) == 1
    assert root_of(flat) is y
    assert flat not in plan.locations


def test_value_read_through_a_reshape_stays_alive() -> None:
    """The last reader of a reshape is a reader of what was reshaped."""
    first = kernel(X)
    flat = Reshape(Reshape(first, (symbol("B") * symbol("T"), 24)), ROWS.shape)
    second = kernel(kernel(kernel(first)))
    plan = Plan(graph_of("main", {"y": kernel(second, flat)}, [X]))
    check_liveness(plan, {"B": 2, "T": 3})


def test_result_that_nobody_reads_has_a_place() -> None:
    body_x = Input("x0", ROWS)
    body = graph_of("two", {"a": Add(body_x, body_x), "b": Mul(body_x, body_x)}, [body_x])
    both = Kernel((X,), body)
    plan = Plan(graph_of("main", {"y": kernel(both.results[0])}, [X]))
    check_liveness(plan, {"B": 2, "T": 3})
    assert set(both.results) <= plan.locations.keys()


def test_int8_rows_are_padded() -> None:
    for columns in (1, 319, 320, 321):
        stored = storage_type(TensorType(DType.I8, (symbol("B"), columns)))
        assert stored.shape[-1] == int8_row_bytes(columns) >= columns
        assert int8_row_bytes(columns) % ALIGNMENT == 0
    assert storage_type(TensorType(DType.F32, (3, 5))).shape == (3, 5)
    assert storage_type(TensorType(DType.I8, ())).shape == ()


def test_symbols_are_in_the_order_of_their_names() -> None:
    assert symbols_of(graph("tiny", "graph.mmc")) == ("B", "T")


def test_what_has_no_place_is_named() -> None:
    (found,) = unplaced(graph_of("main", {"y": Add(X, X)}, [X]))
    assert producer(found[0]).mnemonic == "add"
    assert "outside of a kernel" in found[1]
    bytes_ = Input("q", TensorType(DType.I8, (4, 6)))
    (found,) = unplaced(graph_of("main", {"y": Reshape(bytes_, (8, 3))}, [bytes_]))
    assert "int8" in found[1]


@pytest.mark.parametrize("name", ["tiny", "shared_conv"])
def test_everything_of_a_compiled_model_has_a_place(name: str) -> None:
    assert unplaced(graph(name, "graph.mmc")) == []
