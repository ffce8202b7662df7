"""All passes, one after the other, on random graphs: every step keeps the meaning."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph
from mmc.ir.tensors import Tensors
from mmc.ir.text import parse, render
from mmc.passes.check import check_pass
from mmc.passes.last_position import LastPosition
from mmc.passes.manager import PassManager
from mmc.passes.registry import PASSES, load_pass
from tests.random_graphs import random_graph, random_inputs, random_tensors, same_outputs

OTHERS = ("last-position", "to-fixed-point", "convert-layers")
NAMES = [name for name in PASSES if name not in OTHERS]


def run(graph: Graph, tensors: Tensors) -> PassManager:
    manager = PassManager(tensors)
    manager.run(graph, [load_pass(name) for name in NAMES])
    return manager


@pytest.mark.parametrize("block", range(4))
def test_every_step_keeps_the_meaning(block: int) -> None:
    """Integers identical, floats within 1e-5, at every value that both graphs have."""
    fired: Counter[str] = Counter()
    for seed in range(100 * block, 100 * block + 100):
        graph = random_graph(seed, 4 + seed % 40)
        tensors, probes = random_tensors(graph), [random_inputs(graph, seed)]
        for step in run(graph, tensors).steps:
            fired[step.name] += step.log.fired.total()
            found = check_pass(step.name, step.before, step.after, step.mapped, tensors, probes)
            assert found.holds, f"seed {seed}: {found.failures}\n{step.diff()}"
            assert parse(render(step.after)) is step.after
    assert all(fired[name] for name in NAMES if name not in RARE), fired


RARE = {
    "narrow-weights",
    "find-ternary-linear",
    "share-statistics",
    "merge-projections",
    "single-step",
    "roll-up",
}
"""Passes for which random graphs seldom hold something to do."""


def test_outputs_are_those_of_the_source() -> None:
    """From end to end: names and types always, and numbers where nothing is rounded to integers."""
    compared = 0
    for seed in range(120):
        graph = random_graph(seed, 4 + seed % 30)
        tensors, inputs = random_tensors(graph), random_inputs(graph, seed)
        after = run(graph, tensors).steps[-1].after
        old, new = evaluate(graph, inputs, tensors), evaluate(after, inputs, tensors)
        assert [(n, v.type) for n, v in graph.outputs] == [(n, v.type) for n, v in after.outputs]
        assert graph.inputs == after.inputs
        if any(op.mnemonic in ("round", "floor", "quantize", "sign", "cast") for op in graph):
            continue
        for name, value in old.items():
            compared += 1
            if value.dtype.kind in "iub":
                np.testing.assert_array_equal(value, new[name])
            elif value.dtype == np.float32:
                np.testing.assert_allclose(new[name], value, 1e-4, 1e-5)
    assert compared > 50


def test_a_pipeline_gives_the_same_twice() -> None:
    for seed in range(40):
        graph = random_graph(seed, 30)
        first, second = (run(graph, random_tensors(graph)).steps[-1].after for _ in range(2))
        assert first is second


def test_last_position_of_random_graphs() -> None:
    """The output named `y0`, where it has a position for each token."""
    taken = 0
    for seed in range(600):
        graph = random_graph(seed, 25)
        value = dict(graph.outputs)["y0"]
        lengths = [op for op in graph.inputs if str(op.type) == "i64[B]"]
        if not lengths or not str(value.type).split("[")[1].startswith("B, T"):
            continue
        each = LastPosition("y0", lengths[0].name)
        tensors, inputs = random_tensors(graph), random_inputs(graph, seed)
        [step] = [PassManager(tensors).run_one(graph, each)]
        old, new = evaluate(graph, inputs, tensors), evaluate(step.after, inputs, tensors)
        last = inputs[lengths[0].name] - 1
        old["y0"] = np.stack([row[n : n + 1] for row, n in zip(old["y0"], last, strict=True)])
        assert same_outputs(old, new) or np.allclose(
            old["y0"].astype(float), new["y0"].astype(float), atol=1e-6, equal_nan=True
        ), f"seed {seed}"
        taken += step.log.fired.total()
    assert taken > 10
