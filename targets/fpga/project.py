"""Write the HLS project of a model: library, generated top and table, images, testbench."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mmc.ir.fixed_point import power_table, sigmoid_table
from mmc.targets.fpga import image
from mmc.targets.fpga.attention import AttentionUnit
from mmc.targets.fpga.boards import Board
from mmc.targets.fpga.engine import Engine
from mmc.targets.fpga.golden import Golden
from mmc.targets.fpga.plan import Plan

SOURCE_NAMES = {"stream": "mmc::STREAM", "product": "mmc::PRODUCT", "gate": "mmc::GATE_VECTOR"}

GENERATED = {
    "src/mmc_config.hpp": "mmc_config.hpp.jinja", "src/mmc_top.hpp": "mmc_top.hpp.jinja",
    "src/mmc_top.cpp": "mmc_top.cpp.jinja", "Makefile": "Makefile.jinja",
    "run_hls.tcl": "run_hls.tcl.jinja", "link.cfg": "link.cfg.jinja",
    "README.md": "README.md.jinja",
}  # fmt: skip
"""File of the project to its template in hls/templates."""

COPIED = ("include", "tb", "csim", "host")

TOP = 4
"""How many of the likeliest tokens the head keeps."""


@dataclass(frozen=True)
class Project:
    """Everything that a project is written from."""

    plan: Plan
    tensors: Mapping[str, np.ndarray]
    engine: Engine
    board: Board
    golden: Golden

    def record(self) -> dict[str, Any]:
        """Facts for the manifest."""
        engine = {**asdict(self.engine), "beats": image.total_beats(self.plan, self.engine)}
        return {
            "board": self.board.name, "board_facts": asdict(self.board), "engine": engine,
            "states": list(self.plan.states), "caches": [list(c) for c in self.plan.caches],
            "golden_tokens": len(self.golden.generated),
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write the project into a folder that exists."""
        copy_library(folder)
        for name, template in GENERATED.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(render(template, self._facts()))
        (folder / "tb" / "golden.bin").write_bytes(self.golden.bytes)
        self._write_weights(folder / "weights")

    def _facts(self) -> dict[str, Any]:
        return {
            "plan": self.plan, "engine": self.engine, "board": self.board, "top": TOP,
            "beats": image.total_beats(self.plan, self.engine), "sources": SOURCE_NAMES,
            "attention": AttentionUnit.of(self.plan, self.engine),
            "prompt": len(self.golden.prompt),
            "generate": len(self.golden.generated), "part": self.board.device.split()[0],
            "period": f"{1000 / self.board.clock_mhz:.2f}",
            "memory": [memory_port(self.board, n) for n in range(self.engine.ports + 2)],
        }  # fmt: skip

    def _write_weights(self, folder: Path) -> None:
        folder.mkdir()
        plan, tensors, engine = self.plan, self.tensors, self.engine
        (folder / "constants.bin").write_bytes(image.constants(plan, tensors, engine))
        (folder / "embedding.bin").write_bytes(image.embedding(plan, tensors, engine))
        with ExitStack() as stack:
            banks = [
                stack.enter_context((folder / f"bank_{port:03}.bin").open("wb"))
                for port in range(engine.ports)
            ]
            for beats in image.weight_beats(plan, tensors, engine):
                for bank, part in zip(banks, image.banks(beats, engine.ports), strict=True):
                    bank.write(part.data)


def memory_port(board: Board, port: int) -> str:
    """Where v++ connects a port: one of its own, but that of constants may share the first."""
    port %= board.memory_ports
    if "Zynq" in board.device:
        return f"HP{port}" if port < 4 else f"HPC{port - 4}"
    return f"{'HBM' if board.memory_ports > 4 else 'DDR'}[{port}]"


def copy_library(folder: Path) -> None:
    """The C++ that is the same for every model."""
    with as_file(files("mmc.targets.fpga") / "hls") as library:
        for name in COPIED:
            shutil.copytree(library / name, folder / name)
    table = sigmoid_table()
    entries = ", ".join(str(int(low) | int(high - low) << 16) for low, high in pairwise(table))
    (folder / "include" / "mmc" / "sigmoid_table.hpp").write_text(
        "// 65536 * sigmoid(-16 + n / 32) in the lower 16 bits, the step to the next above them.\n"
        '#pragma once\n\n#include "types.hpp"\n\nnamespace mmc {\n\n'
        f"constexpr uint32_t SIGMOID[1024] = {{{entries}}};\n\n}}  // namespace mmc\n"
    )
    powers = ", ".join(map(str, power_table().tolist()))
    (folder / "include" / "mmc" / "power_table.hpp").write_text(
        "// 2^18 * 2^-(n / 256).\n"
        '#pragma once\n\n#include "types.hpp"\n\nnamespace mmc {\n\n'
        f"constexpr uint32_t POWER[257] = {{{powers}}};\n\n}}  // namespace mmc\n"
    )


def render(template: str, facts: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=False,  # not HTML
    )  # fmt: skip
    text = (files("mmc.targets.fpga") / "hls" / "templates" / template).read_text()
    return environment.from_string(text).render(facts)
