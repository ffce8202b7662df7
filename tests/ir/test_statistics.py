"""Counting, against numbers worked out by hand."""

from __future__ import annotations

from mmc.ir.graph import graph_of
from mmc.ir.ops.attention import Attention
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.norm import RmsNorm, RmsStatistic
from mmc.ir.ops.pointwise import Add, Div, Exp, Mul, Sigmoid, Tanh
from mmc.ir.ops.recurrence import CausalConv, Kernel
from mmc.ir.ops.ternary import AbsMax, Dequantize, Quantize, TernaryMatmul
from mmc.ir.statistics import all_ops, statistics, stored_bytes
from mmc.ir.types import DType, TensorType
from tests.inputs import B, T, given, weight

X = given("x", B, T, 8)


def test_a_ternary_layer() -> None:
    q, s = Quantize(RmsNorm(X, weight("gain", 8), 1e-6), AbsMax())
    product = TernaryMatmul(q, weight("w", 16, 8, dtype=DType.TERNARY))
    graph = graph_of("g", {"y": Dequantize(product, s)})
    one = statistics(graph)
    assert one.ternary_additions == 16 * 8
    assert one.dense_multiplications == 0
    assert one.elementwise_multiplications == 3 * 8 + 8 + 16
    assert one.transcendental == 0
    assert one.operations["ternary_matmul"] == 1
    assert one.weight_bytes == {"f32": 32, "ternary": 128}
    many = statistics(graph, B=2, T=5)
    assert many.ternary_additions == 10 * 16 * 8
    assert many.elementwise_multiplications == 10 * one.elementwise_multiplications
    assert many.weight_bytes == one.weight_bytes


def test_dense_products() -> None:
    y = Linear(X, weight("w", 16, 8))
    z = Matmul(given("a", B, T, 3), given("b", B, 3, 5))
    counted = statistics(graph_of("g", {"y": y, "z": z}), B=2, T=3)
    assert counted.dense_multiplications == 6 * 16 * 8 + 2 * 3 * 5 * 3
    assert counted.ternary_additions == 0


def test_elementwise_operations() -> None:
    y = Div(Mul(Exp(X), Sigmoid(X)), Tanh(Add(X, X)))
    counted = statistics(graph_of("g", {"y": y}), B=2, T=3)
    assert counted.elementwise_multiplications == 2 * 48
    assert counted.transcendental == 3 * 48


def test_a_statistic_counts_what_it_reads() -> None:
    counted = statistics(graph_of("g", {"y": RmsStatistic(X, 1e-6)}), B=2, T=3)
    assert counted.elementwise_multiplications == 48


def test_a_convolution_counts_its_width() -> None:
    y = CausalConv(X, given("s", B, 3, 8), weight("w", 8, 4))
    assert statistics(graph_of("g", {"y": y}), T=3).elementwise_multiplications == 3 * 8 * 4


def test_nested_graphs_count_once_for_each_use() -> None:
    x0 = given("x0", B, T, 8)
    body = graph_of("k", {"y": Exp(Mul(x0, x0))})
    first = Kernel((X,), body)
    graph = graph_of("g", {"y": Kernel((first,), body)})
    counted = statistics(graph)
    assert counted.operations == {"input": 3, "kernel": 2, "mul": 2, "exp": 2}
    assert counted.elementwise_multiplications == 16 + 0
    assert counted.transcendental == 16
    assert len(list(all_ops(graph))) == 9


def test_bytes_that_are_stored() -> None:
    assert stored_bytes(TensorType(DType.BF16, (3, 5))) == 30
    assert stored_bytes(TensorType(DType.TERNARY, (16, 20))) == 320
    assert stored_bytes(TensorType(DType.TERNARY_2BIT, (16, 16))) == 64
    assert stored_bytes(TensorType(DType.TERNARY_1_6BIT, (17, 20))) == 128
    assert stored_bytes(TensorType(DType.I64, ())) == 8


def test_attention_counts_a_full_cache() -> None:
    cache, position = given("k", B, 2, 16, 8), given("p", B, dtype=DType.I64)
    y = Attention(given("q", B, T, 6, 8), cache, cache, position, 1.0)
    assert statistics(graph_of("g", {"y": y}), T=3).dense_multiplications == 2 * 3 * 6 * 8 * 16
