"""The artefact: whole or absent, the same bytes every time, believed only if unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import mmc
from mmc.artifact import MANIFEST, open_artifact
from mmc.errors import MmcError
from mmc.ir.ops.source import Weight
from mmc.targets.reference import ReferenceTarget
from tests.end_to_end.compiled import artifact, checkpoint


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return shutil.copytree(artifact("tiny"), tmp_path / "copied")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(MmcError, match=message) as caught:
        mmc.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_second_process_writes_the_same_bytes(tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "again"
    command = [sys.executable, "-m", "mmc", "compile", str(checkpoint("two_convs"))]
    command += ["--check", "--weights", "2bit", "--mcpu", "native", "-o"]
    subprocess.run(
        [*command, str(out)],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    first, second = contents(artifact("two_convs")), contents(out)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


FILES = ("weights.safetensors", "graph.mmc", "graph-step.mmc", "lib/portable.o", "report.html",
         "certificate.json", "passes/passes.jsonl", "passes/00-input.mmc")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_changed_byte_is_noticed(name: str, copied: Path) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    refused(copied, f"{name}: its bytes have changed")


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_noticed(name: str, copied: Path) -> None:
    (copied / name).unlink()
    refused(copied, f"{name}: is missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "manifest cannot be read"),
        ("\xff", "manifest cannot be read"),
        ("[" * 100_000, "manifest cannot be read"),
        ("[]", "format version none"),
        ("null", "format version none"),
        ("{}", "format version none"),
        ('{"format": 99}', "format version 99"),
        ('{"format": 1}', "format version 1, this mmc reads 3"),
        ('{"format": 3}', "manifest.json: its bytes have changed"),
        ('{"format": 3, "files": 3}', "manifest.json: its bytes have changed"),
    ],
)
def test_manifest_that_is_none(text: str, message: str, copied: Path) -> None:
    (copied / MANIFEST).write_bytes(text.encode("latin-1"))
    refused(copied, message)


@pytest.mark.parametrize("field", ["target", "vocab_size", "entries", "files", "kind"])
def test_changed_manifest_is_noticed(field: str, copied: Path) -> None:
    manifest = json.loads((copied / MANIFEST).read_text())
    for changed in (
        {**manifest, field: "other"},
        {k: v for k, v in manifest.items() if k != field},
    ):
        (copied / MANIFEST).write_text(json.dumps(changed))
        refused(copied, "manifest.json: its bytes have changed")


def test_folder_without_a_manifest(tmp_path: Path) -> None:
    refused(tmp_path, "no artefact")
    refused(tmp_path / "nowhere", "no artefact")


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def compile_quickly(out: Path) -> mmc.Artifact:
    return mmc.compile(Doubled(), (torch.ones(3),), out=out, target="reference")


def test_artefact_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    compile_quickly(out)
    (out / "left-over").touch()
    compile_quickly(out)
    assert not (out / "left-over").exists()
    assert np.array_equal(mmc.load(out)(np.ones(3)), [2, 2, 2])  # pyright: ignore
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_other_folder_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("words")
    with pytest.raises(MmcError, match="not an artefact"):
        compile_quickly(out)
    assert (out / "chapter1.tex").read_text() == "words"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


def test_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    with pytest.raises(MmcError, match="file"):
        compile_quickly(tmp_path / "file")
    with pytest.raises(MmcError, match="cannot be written"):
        compile_quickly(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "words"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_folder_that_cannot_be_made() -> None:
    with pytest.raises(MmcError, match="cannot be written"):
        compile_quickly(Path("/proc/mmc/out"))


class Interrupt(ReferenceTarget):
    error: ClassVar[BaseException]

    def build(self, *args: Any, **options: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
def test_failure_in_the_middle_leaves_the_old_artefact(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    compile_quickly(out)
    before = contents(out)
    monkeypatch.setattr(Interrupt, "error", error, raising=False)
    monkeypatch.setattr("mmc.targets.reference.TARGET", Interrupt())
    wanted = MmcError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted):
        compile_quickly(out)
    assert contents(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few kilobytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(small_disk: Path) -> None:
    command = [sys.executable, "-m", "mmc", "compile", str(checkpoint("tiny"))]
    command += ["--target", "reference", "-o", str(small_disk / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(small_disk.iterdir()) == []


def stored_bytes(folder: Path, suffix: str) -> int:
    """Bytes of the tensors whose names end so, from the header of weights.safetensors."""
    content = (folder / "weights.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    spans = [e["data_offsets"] for name, e in header.items() if name.endswith(suffix)]
    return sum(end - begin for begin, end in spans)


@pytest.mark.parametrize(("layout", "most"), [("2bit", 2.05), ("1.6bit", 1.7)])
def test_bits_of_a_ternary_weight_are_counted_in_the_file(layout: str, most: float) -> None:
    folder = artifact("example", weights=layout)
    opened = open_artifact(folder)
    sizes, layers = opened.manifest["sizes"], opened.manifest["layers"]
    count = sum(layer["rows"] * layer["columns"] for layer in layers)
    bits = 8 * stored_bytes(folder, f".{layout}") / count
    assert bits <= most
    assert sizes["ternary_weights"] == count
    assert sizes["bits_per_ternary_weight"] == pytest.approx(bits, abs=1e-4)
    packed = [w for w in opened.graph().weights if w.type.dtype.layout is not None]
    assert all(isinstance(w, Weight) and w.name.endswith(f".{layout}") for w in packed)


def test_graph_after_a_pass() -> None:
    opened = open_artifact(artifact("tiny"))
    assert len(opened.graph("after:find-recurrence")) > len(opened.graph())
    for which in ("after:nothing", "before", "after:*", "after:linear"):
        with pytest.raises(MmcError, match="no graph"):
            opened.graph(which)
