"""A compiled FPGA artefact read again, and what can be done with its RTL: steps of `build`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import numpy as np

from mmc.errors import MmcError
from mmc.ir.evaluate import evaluate
from mmc.ir.fixed_point import LARGEST_SHIFT
from mmc.ir.graph import Graph
from mmc.ir.types import static_shape
from mmc.targets.base import read_graphs
from mmc.targets.fpga import program
from mmc.targets.fpga.boards import Board
from mmc.targets.fpga.cycles import token_cycles
from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.estimate import Estimate, assess
from mmc.targets.fpga.golden import unpacked
from mmc.targets.fpga.plan import Plan
from mmc.targets.fpga.reader import plan_of
from mmc.targets.fpga.simulation import Memory, Simulator, Token
from mmc.targets.weights_file import WeightsFile

TOKENS = 2
"""Golden tokens that the RTL is run for."""


@dataclass(frozen=True)
class Written:
    """What `mmc compile --target fpga` wrote into a folder."""

    folder: Path
    graph: Graph
    plan: Plan
    engine: Engine
    board: Board
    tensors: Mapping[str, np.ndarray]

    @staticmethod
    def for_rtl(folder: Path) -> Written:
        """The artefact, where the RTL can run it; raise MmcError where it cannot."""
        written = Written.open(folder)
        program.refuse_strange(written.plan)
        return written

    @staticmethod
    def open(folder: Path) -> Written:
        built = json.loads((folder / "manifest.json").read_text())["built"]
        names = Engine.__dataclass_fields__
        engine = Engine(**{k: v for k, v in built["engine"].items() if k in names})
        graph = read_graphs(folder, ["forward"])["forward"]
        weights = WeightsFile.open(folder / "weights.safetensors")
        tensors = {w.name: weights.array(w) for w in graph.weights}
        board = Board(**built["board_facts"])
        return Written(folder, graph, plan_of(graph), engine, board, tensors)

    def estimate(self) -> Estimate:
        """The model on its board."""
        return assess(self.plan, self.board, self.engine)

    def tokens(self) -> list[int]:
        """The first golden tokens."""
        head = np.fromfile(self.folder / "tb" / "golden.bin", "<i4", 2 + TOKENS)
        return [int(token) for token in head[2:]]

    def logits(self, ids: list[int]) -> np.ndarray:
        """What the interpreter says: f32 [tokens, vocabulary]."""
        graph, arrays = unpacked(self.graph, self.tensors)
        inputs = {"ids": np.array([ids]), "lengths": np.array([len(ids)])}
        for op in graph.inputs:
            if op.name in graph.states:
                shape = static_shape(op.type.bind({"B": 1}).shape)
                inputs[op.name] = np.zeros(shape, op.type.dtype.numpy)
        return evaluate(graph, inputs, arrays)["logits"][0]


def rtlsim(folder: Path, choice: object) -> Mapping[str, Any]:
    """Tokens through the RTL by Verilator: logits as the interpreter's, cycles as the formula's."""
    written = Written.for_rtl(folder)
    ids = written.tokens()
    given = written.estimate()
    built = folder / "build" / "rtlsim"
    simulator = Simulator(written.plan, written.engine, built, given.ahead)
    before = getrusage(RUSAGE_CHILDREN).ru_utime
    found = simulator.run(written.tensors, ids, Memory(latency=1))
    seconds = (getrusage(RUSAGE_CHILDREN).ru_utime - before) / len(ids)
    for token, expected in zip(found, written.logits(ids), strict=True):
        if not same_logits(token, expected):
            raise MmcError("the RTL's logits are not the interpreter's", str(folder), "a defect")
    rows = program.program(written.plan, written.engine)
    slow = simulator.run(written.tensors, ids, board_memory(given))
    return {
        "identical_logits": True,
        "cycles": [token.cycles for token in found],
        "formula": token_cycles(rows, written.engine),
        "cpu_seconds_of_a_token": round(seconds, 2),
        "with_memory": {
            "cycles": slow[-1].cycles, "starved": slow[-1].starved,
            "memory_idle": slow[-1].memory_idle,
        },
    }  # fmt: skip


def board_memory(given: Estimate) -> Memory:
    """The board's memory as the bench takes it: bytes of a beat without filling."""
    board, engine = given.board, given.engine
    filled = program.beat_bytes(engine) / engine.beat_bytes
    rate = board.bytes_per_second(engine.ports) / (board.clock_mhz * 1e6)
    return Memory(100, rate * filled)


def same_logits(token: Token, expected: np.ndarray) -> bool:
    """Whether sums and factor give exactly these logits."""
    if token.right + 1 == LARGEST_SHIFT:  # the factor was cut: only the order is left
        return token.likeliest == int(expected.argmax())
    scaled = (token.sums.astype(np.int64) * token.factor).astype(np.float64)
    return np.array_equal(np.ldexp(scaled, -token.right - 1).astype(np.float32), expected)


def synth(folder: Path, choice: object) -> Mapping[str, Any]:
    """Resources of the whole token engine for UltraScale+, by yosys, beside the estimate."""
    from mmc.targets.fpga.synthesis import ultrascale

    if choice != "yosys":
        raise MmcError(f"no synthesis by {choice!r}", "synth", 'there is "yosys"')
    written = Written.for_rtl(folder)
    given = written.estimate()
    tables = prepare(written, folder / "build" / "synth")
    values = {**program.parameters(written.plan, written.engine), "AHEAD": given.ahead}
    found = ultrascale("token_engine", values, tables)
    return {"measured": vars(found), "estimated": vars(given.needs)}


def pnr(folder: Path, choice: object) -> Mapping[str, Any]:
    """Clock and utilisation of the engine on an ECP5-85k, by nextpnr."""
    from mmc.targets.fpga.synthesis import place

    if choice != "ecp5":
        raise MmcError(f"no place and route for {choice!r}", "pnr", 'there is "ecp5"')
    written = Written.for_rtl(folder)
    tables = prepare(written, folder / "build" / "pnr")
    values = program.parameters(written.plan, written.engine)
    return place("engine_and_sequencer", engine_parameters(values), tables).record()


def engine_parameters(values: Mapping[str, int]) -> dict[str, int]:
    """The engine's own parameters among those of the token engine."""
    names = ("P", "GROUPS", "CODEC", "LANES", "Q_WORDS", "Y_WORDS", "ROWS")
    return {name: values[name] for name in names}


def prepare(written: Written, folder: Path) -> Path:
    """A folder with the tables that the RTL reads."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = program.program(written.plan, written.engine)
    (folder / "program.hex").write_text(program.program_text(rows))
    (folder / "sigmoid.hex").write_text(program.sigmoid_text())
    return folder
