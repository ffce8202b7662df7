"""`mmc import-report`: what was found in a model, by which evidence, and what was not."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

import mmc
from mmc.driver import analyse
from mmc.errors import MmcError
from mmc.frontends.torch_export import import_module
from mmc.import_report import import_report, render_import_report, report_of
from tests.frontends.bit_linears import CASES
from tests.frontends.test_substitute import Kernel, named


class Mixed(nn.Module):
    """Dense, binary and ternary layers, a linear recurrence and one that squashes its state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 64)
        self.binary = CASES["mybitnet binary"].make()
        self.back = nn.Linear(48, 64)
        self.ternary = CASES["onebitllms"].make()

    def forward(self, x: Tensor) -> Tensor:
        y = self.ternary(self.back(self.binary(self.embed(x))))

        def linear(h: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
            h = 0.5 * h + now
            return h, h.clone()

        def squashed(h: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(h + now)
            return h, h.clone()

        start = torch.zeros_like(y[0])
        a, b = scan(linear, start, y)[1], scan(squashed, start, y)[1]
        return (a + b).round()


@cache
def facts() -> dict[str, Any]:
    torch.manual_seed(0)
    with torch.no_grad():
        return report_of(analyse(import_module(Mixed().eval(), (torch.randn(3, 2, 8),))))


def layer(name: str) -> dict[str, Any]:
    return next(found for found in facts()["layers"] if found["name"] == name)


@pytest.mark.parametrize(
    ("name", "weights", "rounding"),
    [
        ("embed", "dense", None),
        ("binary", "binary", "half_even"),
        ("ternary", "ternary", "half_up"),
    ],
)
def test_layers_say_what_they_are(name: str, weights: str, rounding: str | None) -> None:
    assert layer(name)["weights"] == weights
    assert (layer(name)["quantiser"] or {}).get("rounding") == rounding
    kinds = [evidence["kind"] for evidence in layer(name)["evidence"]]
    assert kinds[:1] == ([] if weights == "dense" else ["value"])
    assert ("algebra" in kinds) == (weights != "dense")
    assert bool(layer(name)["why"]) == (weights == "dense")


def test_recurrences_say_why() -> None:
    linear, squashed = facts()["recurrences"]
    assert linear["linear"]
    assert "h' = a*h + b" in linear["evidence"][0]["what"]
    assert not squashed["linear"]
    assert "tanh" in squashed["why"]
    assert squashed["evidence"] == []


def test_what_was_left_is_told() -> None:
    passes = {left["pass"] for left in facts()["left"]}
    assert passes == {"find-activation-quantiser", "find-recurrence"}


def test_text_counts() -> None:
    text = render_import_report(facts())
    assert "linear layers: 2 dense, 1 binary, 1 ternary; 1 of 2 recurrences linear" in text
    assert "[-128, 127] of 128 per tensor, eps 1e-06, half_even" in text
    assert "by value    find-ternary-linear: " in text
    assert "left by find-activation-quantiser: " in text


def _faq(original: nn.Module) -> nn.Module:
    return CASES["FAQ training"].make()


def test_replaced_module_is_evidence_by_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmc.frontends import substitute

    monkeypatch.setattr(substitute, "_REGISTRY", {})
    mmc.substitutions.register("far.Kernel", _faq, "eps 1e-6")
    model = nn.Sequential(nn.Linear(8, 64), named("far.Kernel", Kernel)(64, 48)).eval()
    with torch.no_grad():
        report = report_of(analyse(import_module(model, (torch.randn(2, 8),))))
        artifact = mmc.compile(
            model, (torch.randn(2, 8),), out=tmp_path / "out", target="reference"
        )
    told = [{"path": "1", "was": "far.Kernel", "declares": "eps 1e-6"}]
    assert report["substituted"] == artifact.manifest["substituted"] == told
    text = render_import_report(report)
    assert "by class    substitution: far.Kernel: eps 1e-6" in text
    assert "replaced 1: far.Kernel, by an equivalent with eps 1e-6" in text
    assert "far.Kernel" in (artifact.path / "report.html").read_text()


def test_exported_program_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(nn.Linear(8, 4), (torch.randn(2, 8),)), path)
    command = [sys.executable, "-m", "mmc", "import-report", str(path), "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(told.stdout)
    assert report["source"] == str(path)
    assert [found["weights"] for found in report["layers"]] == ["dense"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "zip.pt2", "w") as archive:
        archive.writestr("a", "b")
    for name in ("text.pt2", "zip.pt2"):
        with pytest.raises(MmcError, match=r"no program of torch\.export"):
            import_report(tmp_path / name)
    with pytest.raises(MmcError, match="no such file"):
        import_report(tmp_path / "missing.pt2")
    mmc.compile(nn.Linear(3, 4), (torch.ones(2, 3),), out=tmp_path / "out", target="reference")
    with pytest.raises(MmcError, match="is an artefact"):
        import_report(tmp_path / "out")
