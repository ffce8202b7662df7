"""The cost model that chooses a layout: what it says of sizes, and that it says why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmc.ir.graph import graph_of
from mmc.ir.op import Op
from mmc.ir.ops.source import Input, Weight
from mmc.ir.ops.ternary import TernaryMatmul
from mmc.ir.packing import packed_bytes
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, TensorType
from mmc.passes.base import Log
from mmc.passes.layout_cost import MACHINES, best_for_all, costs
from mmc.passes.pack_ternary import PackTernary


def test_what_streams_from_memory_is_dense_and_what_stays_in_a_cache_is_not() -> None:
    cpu = MACHINES["cpu"]
    large = costs(5632, 2048, 1 << 30, cpu)
    small = costs(5632, 2048, cpu.cache_bytes, cpu)
    assert [cost.layout for cost in large] == ["1.6bit", "1.67bit", "2bit"]
    assert small[0].layout == "2bit"
    assert all(cost.size == packed_bytes(5632, 2048, cost.layout) for cost in large)
    assert min(cost.seconds for cost in large) > min(cost.seconds for cost in small)


def test_a_matrix_that_has_no_whole_block_gains_nothing() -> None:
    of = {cost.layout: cost for cost in costs(4096, 64, 1 << 30, MACHINES["cpu"])}
    assert of["1.67bit"].size == of["2bit"].size


def layer(h: int, f: int) -> list[tuple[int, int]]:
    return [(3 * h, h), (h, h), (2 * f, h), (h, f)]


def test_a_gpu_takes_fewer_bits_where_reading_takes_longest() -> None:
    """On the one that was measured digits take as long."""
    gpu = MACHINES["gpu"]
    slow_memory = replace(gpu, memory_rate=1e12)
    for machine, wanted in ((gpu, "2bit"), (slow_memory, "1.6bit")):
        assert best_for_all(layer(5120, 13824) * 40, machine) == wanted
        assert best_for_all(layer(64, 176), machine) == "2bit"
    assert {cost.layout for cost in costs(64, 64, 1 << 30, gpu)} == {"2bit", "1.6bit"}


def packed(n: int, k: int) -> tuple[Op, Log]:
    tensors = Tensors()
    w = tensors.add("w.trits", TensorType(DType.TERNARY, (n, k)), np.zeros((n, k), np.int8))
    x = Input("x", TensorType(DType.I8, (3, k)))
    log = Log()
    graph, _ = PackTernary("auto").run(graph_of("g", {"y": TernaryMatmul(x, w)}), tensors, log)
    return next(op for op in graph if isinstance(op, Weight)), log


def test_auto_chooses_and_says_why() -> None:
    weight, log = packed(32, 96)
    assert weight.type.dtype is DType.TERNARY_2BIT
    (verdict,) = log.verdicts
    assert "w.trits 32x96: 2bit, 768 bytes" in verdict.why
    assert "estimated microseconds: 2bit" in verdict.why
