"""Running passes: verify after each, keep each step, and say which pass broke what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from mmc.errors import MmcError
from mmc.ir.graph import Graph, Mapped, graph_of
from mmc.ir.ops.pointwise import Add, Detach, Neg
from mmc.ir.ops.source import Input
from mmc.ir.tensors import Tensors
from mmc.ir.text import parse
from mmc.ir.types import DType, TensorType
from mmc.passes.base import Log, Pass
from mmc.passes.manager import PassManager, write_dumps
from mmc.passes.registry import load_pass

X = Input("x", TensorType(DType.F32, (4,)))
GRAPH = graph_of("g", {"y": Neg(Detach(X))})


@dataclass(frozen=True)
class Broken(Pass):
    """Leaves an operation that breaks its contract."""

    name: ClassVar[str] = "broken"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        wrong = Add(X, Input("n", TensorType(DType.I32, (4,))))
        return Graph(graph.name, graph.inputs, (("y", wrong),)), {}


@dataclass(frozen=True)
class Stray(Pass):
    """Leaves an input that the graph does not declare."""

    name: ClassVar[str] = "stray"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        return Graph(graph.name, (), graph.outputs), {}


@pytest.mark.parametrize(
    ("broken", "message"),
    [(Broken(), "one dtype, not f32 and i32"), (Stray(), "not among its inputs")],
)
def test_a_failure_names_the_pass_and_the_passes_before(broken: Pass, message: str) -> None:
    manager = PassManager(Tensors())
    with pytest.raises(MmcError) as caught:
        manager.run(GRAPH, [load_pass("strip-ste"), load_pass("canonicalize"), broken])
    assert message in str(caught.value)
    assert f"after pass {broken.name}" in str(caught.value)
    assert "passes before it: strip-ste, canonicalize" in str(caught.value)
    assert [step.name for step in manager.steps] == ["strip-ste", "canonicalize"]


def test_a_failure_of_the_first_pass_says_so() -> None:
    with pytest.raises(MmcError, match="passes before it: none"):
        PassManager(Tensors()).run(GRAPH, [Broken()])


def test_steps_are_kept_and_told() -> None:
    heard: list[str] = []
    manager = PassManager(Tensors(), heard.append)
    after = manager.run(GRAPH, [load_pass("strip-ste"), load_pass("canonicalize")])
    assert after is graph_of("g", {"y": Neg(X)})
    assert heard == ["strip-ste", "canonicalize"]
    first, second = manager.steps
    assert (first.before, first.after, second.after) == (GRAPH, GRAPH, after)
    assert "nothing fired" in first.summary()
    assert "3 -> 2" in second.summary()
    assert "detach x1" in second.summary()
    assert first.diff() == ""
    assert "-  %detach = detach(%x) : f32[4]" in second.diff().splitlines()
    assert second.mapped[Detach(X)] is X


def test_dumps_are_read_back_and_hold_no_times(tmp_path: Path) -> None:
    manager = PassManager(Tensors())
    manager.run(GRAPH, [load_pass("strip-ste"), load_pass("canonicalize")])
    write_dumps(tmp_path / "passes", GRAPH, manager.steps)
    names = sorted(path.name for path in (tmp_path / "passes").iterdir())
    assert names == ["00-input.mmc", "01-strip-ste.mmc", "02-canonicalize.mmc", "passes.jsonl"]
    assert parse((tmp_path / "passes/00-input.mmc").read_text()) is GRAPH
    lines = (tmp_path / "passes/passes.jsonl").read_text().splitlines()
    record = json.loads(lines[1])
    assert record["operations"] == [3, 2]
    assert record["fired"] == {"detach": 1}
    assert record["verdicts"][0]["fired"] is True
    assert not [key for key in record if "second" in key]
