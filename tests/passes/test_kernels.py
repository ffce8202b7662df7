"""Kernels: what shares one, that none waits for another, and that they change no bit."""

from __future__ import annotations

import networkx as nx

from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Op, Value
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.norm import RmsNorm
from mmc.ir.ops.pointwise import Add, Cast, Exp, Mul, Neg, Tanh
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.shape import Reshape, TakePosition
from mmc.ir.ops.source import Constant, Input, Iota, Weight
from mmc.ir.tensors import Tensors
from mmc.ir.text import parse, render
from mmc.ir.types import DType, TensorType
from mmc.ir.view import to_networkx
from mmc.passes.base import Log
from mmc.passes.fuse_kernels import FuseKernels
from mmc.passes.kernel_groups import Groups
from tests.inputs import B, T, given
from tests.random_graphs import random_graph, random_inputs, random_tensors, same_outputs

X = given("x", B, T, 8)
W = Weight("w", TensorType(DType.F32, (8, 8)))


def fused(graph: Graph, fuse: bool = True) -> Graph:
    after, _ = FuseKernels(fuse).run(graph, Tensors(), Log())
    return after.verify()


def kernels(graph: Graph) -> list[str]:
    return [op.body.name for op in graph if isinstance(op, Kernel)]


def test_random_graphs_keep_every_bit() -> None:
    for seed in range(250):
        graph = random_graph(seed, 5 + seed % 40)
        inputs, tensors = random_inputs(graph), random_tensors(graph)
        wanted = evaluate(graph, inputs, tensors)
        for fuse in (True, False):
            after = fused(graph, fuse)
            assert same_outputs(evaluate(after, inputs, tensors), wanted)
            assert parse(render(after)) is after
            left = [op for op in after if op.operands and not isinstance(op, Kernel | Reshape)]
            assert left == []


def test_without_fusion_every_operation_is_a_kernel() -> None:
    after = fused(graph_of("g", {"y": Exp(Neg(X))}), fuse=False)
    assert kernels(after) == ["neg", "exp"]
    assert kernels(fused(graph_of("g", {"y": Exp(Neg(X))}))) == ["pointwise"]


def diamond() -> tuple[Graph, Op, Op]:
    """A and b go row by row, and a product lies between them: together they would wait for it."""
    a = Neg(X)
    b = Add(a, Linear(a, W))
    return graph_of("g", {"y": b}), a, b


def test_a_group_on_both_sides_of_a_product_is_never_made() -> None:
    graph, _, _ = diamond()
    assert kernels(fused(graph)) == ["neg", "linear", "add"]


def test_groups_that_wait_for_each_other_are_taken_apart() -> None:
    graph, a, b = diamond()
    groups = Groups(graph)
    for op in graph:
        if op.operands:
            groups.add(op)
    groups.join(a, b)
    groups.break_cycles()
    assert groups.alone(a)
    assert groups.alone(b)
    assert groups.in_order() == [[a], [Linear(a, W)], [b]]


def test_groups_that_begin_without_operands_wait_as_well() -> None:
    """A group that is led by an operation without operands has edges like any other."""
    n = Cast(Iota(8), DType.F32)
    product = Linear(n, W)
    y = Add(n, product)
    graph = graph_of("g", {"y": y})
    groups = Groups(graph)
    for op in (Iota(8), n, product, y):
        groups.add(op)
    groups.join(Iota(8), n)
    groups.join(n, y)
    groups.break_cycles()
    assert groups.alone(y)
    ordered = groups.in_order()
    assert ordered.index([product]) < ordered.index([y])


def test_two_chains_that_cross() -> None:
    """A -> product -> d and b -> product -> c, where naive grouping joins a with c and b with d."""
    y = given("y", B, T, 8)
    a, b = Neg(X), Tanh(y)
    c, d = Mul(a, Linear(b, W)), Mul(b, Linear(a, W))
    graph = graph_of("g", {"c": c, "d": d})
    groups = Groups(graph)
    for op in graph:
        if op.operands:
            groups.add(op)
    groups.join(a, c)
    groups.join(b, d)
    groups.break_cycles()
    assert all(groups.alone(op) for op in (a, b, c, d))
    after = fused(graph)
    assert nx.is_directed_acyclic_graph(to_networkx(after))
    inputs, tensors = random_inputs(graph), random_tensors(graph)
    assert same_outputs(evaluate(after, inputs, tensors), evaluate(graph, inputs, tensors))


def test_what_is_taken_by_position_lies_in_memory() -> None:
    at = given("at", B, dtype=DType.I64)
    graph = graph_of("g", {"y": Exp(TakePosition(Neg(X), at))})
    assert kernels(fused(graph)) == ["neg", "last"]
    one = graph.bind({"T": 1})
    for op in fused(one):
        if isinstance(op, Kernel):
            taken = [inner for inner in op.body if isinstance(inner, TakePosition)]
            assert all(isinstance(inner.x, Input) for inner in taken)


def test_like_layers_share_one_body() -> None:
    value: Value = X
    for n in range(4):
        gain = Weight(f"gain.{n}", TensorType(DType.F32, (8,)))
        w = Weight(f"w.{n}", TensorType(DType.F32, (8, 8)))
        value = Linear(Exp(RmsNorm(value, gain, 1e-6)), w)
    bodies = [op.body for op in fused(graph_of("g", {"y": value})) if isinstance(op, Kernel)]
    assert len(bodies) == 8
    assert len(set(bodies)) == 2


def test_constants_live_inside_and_an_output_may_be_a_source() -> None:
    half = Constant(0.5, TensorType(DType.F32, (B, 1, 1)))
    graph = graph_of("g", {"y": Mul(X, half), "x": X, "half": half, "w": W})
    after = fused(graph)
    [kernel] = [op for op in after if isinstance(op, Kernel)]
    assert kernel.arguments == (X,)
    inputs, tensors = random_inputs(graph), random_tensors(graph)
    assert same_outputs(evaluate(after, inputs, tensors), evaluate(graph, inputs, tensors))


def test_an_operation_on_its_own_results_is_one_kernel() -> None:
    value: Value = X
    for _ in range(300):
        value = Add(Neg(value), value)
    after = fused(graph_of("g", {"y": value}))
    assert kernels(after) == ["residual"]
    assert len(after) == 2
