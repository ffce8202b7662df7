"""Which code runs on which processor, and what is said where it does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import mmc
from mmc.artifact import MANIFEST
from mmc.cli import app
from mmc.errors import MmcError
from mmc.targets.base import BuildOptions
from mmc.targets.cpu import features
from mmc.targets.cpu.features import ISA_FLAGS, Isa, best_isa, choose_isa
from mmc.targets.cpu.processor import PROCESSORS, processor_named
from mmc.targets.registry import load_target
from tests.end_to_end.compiled import artifact, checkpoint, model, token_ids

HASWELL = ISA_FLAGS["avx2"] | {"sse2", "aes"}


def pretend(monkeypatch: pytest.MonkeyPatch, flags: frozenset[str]) -> None:
    for module in ("features", "processor"):
        monkeypatch.setattr(f"mmc.targets.cpu.{module}.cpu_flags", lambda: flags)


@pytest.mark.parametrize("isa", ISA_FLAGS)
def test_flags_are_all_that_llvm_may_use(isa: Isa) -> None:
    assert PROCESSORS[isa].flags == ISA_FLAGS[isa]
    assert PROCESSORS[isa].isa == isa


def test_best_instruction_set_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(features.FORCE, raising=False)
    for isa, flags in ISA_FLAGS.items():
        pretend(monkeypatch, flags | {"sse2"})
        assert choose_isa() == isa
    assert best_isa(ISA_FLAGS["avx512_vnni"] | ISA_FLAGS["avx_vnni"]) == "avx512_vnni"
    assert best_isa(HASWELL - {"fma"}) == "portable"


def test_forced_set_that_is_lacking_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = artifact("tiny")
    pretend(monkeypatch, HASWELL)
    monkeypatch.setenv(features.FORCE, "avx_vnni")
    with pytest.raises(MmcError, match="lacks avx_vnni, which MMC_CPU_ISA=avx_vnni needs"):
        mmc.load(folder)


@pytest.mark.parametrize(
    ("name", "isa"),
    [("x86-64", "portable"), ("haswell", "avx2"), ("skylake-avx512", "avx2"),
     ("alderlake", "avx_vnni"), ("znver4", "avx512_vnni"), ("icelake-server", "avx512_vnni")],
)  # fmt: skip
def test_kernels_suit_the_named_processor(name: str, isa: Isa) -> None:
    assert processor_named(name).isa == isa


@pytest.mark.parametrize(("name", "layout"), [("znver4", "auto"), ("haswell", "2bit")])
def test_dense_layouts_are_for_processors_that_unpack_them_fast(name: str, layout: str) -> None:
    assert load_target("cpu").default_layout(BuildOptions(mcpu=name)) == layout


def test_native_asks_for_nothing_that_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual machine may hide what LLVM knows of the processor."""
    pretend(monkeypatch, HASWELL - {"bmi2"})
    assert processor_named("native").flags <= HASWELL - {"bmi2"}


@pytest.mark.parametrize(
    ("name", "message"),
    [("znver9", "no processor 'znver9'.*znver"), ("", "no processor ''"), ("i386", "no 64 bit")],
)
def test_unknown_processor_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(MmcError, match=message):
        mmc.compile(checkpoint("tiny"), out=tmp_path / "out", mcpu=name)
    assert list(tmp_path.iterdir()) == []


def test_other_targets_refuse_a_processor(tmp_path: Path) -> None:
    with pytest.raises(MmcError, match="--mcpu: target reference makes no code for a processor"):
        mmc.compile(checkpoint("tiny"), out=tmp_path / "out", target="reference", mcpu="haswell")


def test_foreign_code_cannot_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, HASWELL)
    cpu = load_target("cpu")
    cpu.refuse(BuildOptions("haswell", check=True))
    cpu.refuse(BuildOptions("alderlake"))
    with pytest.raises(MmcError, match="--check: this processor lacks avx_vnni, gfni"):
        cpu.refuse(BuildOptions("alderlake", check=True))


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled for this machine by the command line."""
    out = tmp_path_factory.mktemp("native") / "out"
    command = ["compile", str(checkpoint("tiny")), "-o", str(out), "--mcpu", "native", "--check"]
    assert CliRunner().invoke(app, command).exit_code == 0
    return out


def test_code_for_this_processor_runs(native: Path) -> None:
    name = processor_named("native").mcpu
    manifest = json.loads((native / MANIFEST).read_text())
    assert [file.name for file in (native / "lib").iterdir()] == [f"{name}.o"]
    assert manifest["built"]["mcpu"] == name
    assert manifest["built"]["cpu_flags"] == sorted(processor_named("native").flags)
    loaded, ids = mmc.load(native), token_ids(17, 2, 9)
    assert isinstance(loaded, mmc.Model)
    wanted = model("tiny").forward(ids)
    assert np.abs(loaded.forward(ids) - wanted).max() <= 0.02 * np.abs(wanted).max()


def test_code_for_another_processor_is_refused(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = processor_named("native").flags
    if not flags:
        pytest.skip("this processor is the least there is")
    pretend(monkeypatch, flags - {"avx2", "fma"})
    with pytest.raises(MmcError, match=r"lib/.*\.o: this processor lacks avx2, fma.*--mcpu native"):
        mmc.load(native)


def test_code_for_one_processor_cannot_be_forced(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(features.FORCE, "portable")
    with pytest.raises(MmcError, match=r"holds code for .* alone"):
        mmc.load(native)


def test_every_set_is_in_an_artefact() -> None:
    assert {file.stem for file in (artifact("tiny") / "lib").iterdir()} == set(ISA_FLAGS)


def test_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, HASWELL)
    monkeypatch.delenv(features.FORCE, raising=False)
    for command in ("targets", "doctor"):
        assert "instruction set avx2" in CliRunner().invoke(app, [command]).output
