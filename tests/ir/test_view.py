"""The graph as networkx sees it."""

from __future__ import annotations

import networkx as nx

from mmc.ir.graph import graph_of
from mmc.ir.ops.pointwise import Add, Mul
from mmc.ir.ops.source import Input
from mmc.ir.ops.ternary import AbsMax, Dequantize, Quantize
from mmc.ir.types import DType, TensorType
from mmc.ir.view import to_networkx
from tests.random_graphs import random_graph

X = Input("x", TensorType(DType.F32, (4,)))


def test_a_node_for_each_operation_and_an_edge_for_each_use() -> None:
    q, s = Quantize(X, AbsMax())
    both = Dequantize(q, s)
    graph = graph_of("g", {"y": Add(both, Mul(X, X))})
    view = to_networkx(graph)
    assert view.name == "g"
    assert set(view.nodes) == set(graph.ops)
    assert view.nodes[both]["label"] == "dequantize"
    assert view.number_of_edges(X, Mul(X, X)) == 2
    edges = view.get_edge_data(Quantize(X, AbsMax()), both)
    assert edges is not None
    assert sorted(edge["type"] for edge in edges.values()) == ["f32[1]", "i8[4]"]
    assert view.number_of_edges() == 1 + 2 + 2 + 2


def test_a_graph_has_no_cycle_and_its_order_is_topological() -> None:
    for seed in range(50):
        graph = random_graph(seed)
        view = to_networkx(graph)
        assert nx.is_directed_acyclic_graph(view)
        order = {op: n for n, op in enumerate(graph.ops)}
        assert all(order[maker] < order[user] for maker, user in view.edges())
