"""`--check`: what the certificate says, and that a wrong pass or kernel is caught."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mmc
from mmc.errors import MmcError
from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value
from mmc.ir.ops.pointwise import Silu
from mmc.ir.ops.ternary import AbsMax, Quantizes
from mmc.ir.tensors import Tensors
from mmc.passes.base import Log, Pass
from mmc.passes.registry import load_pass
from mmc.targets.cpu.ternary_matmul import ternary_matmul
from tests.end_to_end.compiled import VARIANTS, artifact, checkpoint, write_model


def certificate(name: str) -> dict[str, Any]:
    return json.loads((artifact(name) / "certificate.json").read_text())


def test_every_pass_is_in_the_certificate() -> None:
    ran = (artifact("tiny") / "passes" / "passes.jsonl").read_text().splitlines()
    checked = certificate("tiny")["passes"]
    assert [c["name"] for c in checked] == [json.loads(line)["pass"] for line in ran]
    for check in checked:
        assert check["holds"], check
        assert check["integers_identical"]
        assert check["float_error"] <= check["float_bound"] <= 1e-5
        assert check["failures"] == []
    assert sum(check["integers"] for check in checked) > 0


def test_every_kernel_is_in_the_certificate() -> None:
    found = certificate("tiny")["target"]
    lines = "".join((artifact("tiny") / g).read_text() for g in ("graph.mmc", "graph-step.mmc"))
    assert found["kernels"] == lines.count(" = kernel(")
    assert found["sums"] > 0
    assert found["activations"] > 0
    assert found["float_error"] <= found["float_bound"]
    assert found["failures"] == []


class Changed(Pass):
    """Does what `share-statistics` does, and something wrong."""

    name = "share-statistics"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        after, first = load_pass(self.name).run(graph, tensors, log)
        after, second = after.map(self.step)
        return after, {old: second.get(new, new) for old, new in first.items()}

    def step(self, _: Op, moved: Op) -> Value | Op:
        raise NotImplementedError


class WrongFunction(Changed):
    """SiLU of twice the argument."""

    def step(self, _: Op, moved: Op) -> Value | Op:
        return Silu(Silu(moved.x)) if isinstance(moved, Silu) else moved


class WrongRounding(Changed):
    """Halves to even instead of away from zero: only numbers half way between two tell."""

    def step(self, _: Op, moved: Op) -> Value | Op:
        by = moved.attributes.get("by")
        if not isinstance(moved, Quantizes) or not isinstance(by, AbsMax):
            return moved
        changed = replace(by, rounding="half_even")
        return type(moved)(*(changed if field is by else field for field in moved.fields))


@pytest.mark.parametrize("wrong", [WrongFunction, WrongRounding])
def test_wrong_pass_is_caught(
    wrong: type[Changed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(name: str, options: Any = None) -> Pass:
        return wrong() if name == wrong.name else load_pass(name, options)

    monkeypatch.setattr("mmc.driver.load_pass", loaded)
    out = tmp_path / "out"
    with pytest.raises(MmcError, match=r"--check: \d+ comparisons failed:\n  share-statistics: "):
        mmc.compile(checkpoint("tiny"), out=out, target="reference", check=True)
    assert list(tmp_path.iterdir()) == []


def test_wrong_kernel_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reads the weights as if they were packed the other way."""

    def misread(n: int, k: int, layout: str, isa: Any) -> Any:
        return ternary_matmul(n, k, "1.6bit", isa)

    monkeypatch.setattr("mmc.targets.cpu.build.ternary_matmul", misread)
    with pytest.raises(MmcError, match=r"kernels are wrong:\n.*integers differ"):
        mmc.compile(
            checkpoint("tiny"), out=tmp_path / "out", weights="2bit", mcpu="native", check=True
        )
    assert list(tmp_path.iterdir()) == []


def test_tied_embeddings_can_be_checked(tmp_path: Path) -> None:
    """The probe of ties leaves alone what is made of weights only."""
    mmc.compile(checkpoint("tied"), out=tmp_path / "out", target="reference", check=True)


def test_half_up_is_recognised(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", {**VARIANTS["tiny"], "rounding": "half_up"})
    mmc.compile(folder, out=tmp_path / "out", target="reference", require_matmul_free=True)
