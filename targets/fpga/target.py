"""The FPGA target: an HLS project of integers alone, and its C simulation to run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which
from typing import Any, ClassVar

import numpy as np

from mmc.errors import MmcError
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph
from mmc.ir.op import Op
from mmc.ir.tensors import Tensors
from mmc.targets.base import (
    Arrays,
    BuildOptions,
    Built,
    Capabilities,
    Executable,
    Progress,
    Target,
    read_graphs,
)
from mmc.targets.fpga.boards import load_board
from mmc.targets.fpga.codec import CODECS
from mmc.targets.fpga.reader import plan_of
from mmc.targets.weights_file import WeightsFile


class FpgaTarget(Target):
    name: ClassVar[str] = "fpga"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "FPGAs through HLS C++ (Vitis style), integers alone; runs as C simulation where g++ is",
        ("auto", *CODECS),
        kernels=False,
        fixed_point=True,
        boards=True,
        embeddings=(),
        stored_layout="2bit",
    )

    def here(self) -> str:
        from mmc.targets.fpga import simulation, synthesis

        tools = {
            "C simulation": ["g++"] if which("g++") is None else [],
            "rtlsim": simulation.missing_tools(),
            "synth and pnr": synthesis.missing_tools(),
        }
        return "; ".join(
            f"no {step} without {', '.join(missing)}" if missing else f"{step} works"
            for step, missing in tools.items()
        )

    def unsupported(self, graph: Graph) -> list[tuple[Op, str]]:
        if graph.name == "forward":  # the others are made from it
            plan_of(graph)  # raises, naming what it does not know
        return []

    def refuse(self, options: BuildOptions) -> None:
        if options.mcpu is not None:
            raise MmcError("an FPGA has no processor", "--mcpu", "name a board with --board")
        if options.board is None:
            raise MmcError("the target fpga needs a board", "--board", "such as kv260 or u280")
        load_board(options.board)
        if options.target_tps is not None and not options.target_tps > 0:
            raise MmcError(f"{options.target_tps} tokens a second", "--target-tps", "above zero")

    def build(
        self,
        entries: Mapping[str, Graph],
        tensors: Tensors,
        folder: Path,
        progress: Progress,
        options: BuildOptions,
    ) -> Built:
        from mmc.targets.fpga.choice import choose
        from mmc.targets.fpga.golden import golden_vectors
        from mmc.targets.fpga.project import Project

        assert options.board is not None  # `refuse`
        board = load_board(options.board)
        plan = plan_of(entries["forward"])
        engine = choose(plan, board, options.weights, options.target_tps)
        progress("golden vectors")
        golden = golden_vectors(entries["step"], plan, tensors)
        progress("HLS project")
        project = Project(plan, tensors, engine, board, golden)
        project.write(folder)
        return Built(project.record())

    def load(
        self, folder: Path, entries: Sequence[str], built: Mapping[str, Any], *,
        embedding_memory: str = "device",
    ) -> Executable:  # fmt: skip
        from mmc.targets.fpga.executable import FpgaExecutable

        return FpgaExecutable.open(folder, built)

    def check(
        self,
        folder: Path,
        entries: Mapping[str, Graph],
        probes: Mapping[str, Arrays],
        options: BuildOptions,
    ) -> dict[str, Any]:
        """The C simulation and the interpreter, every number of every output equal."""
        from mmc.targets.fpga.executable import FpgaExecutable

        plan = plan_of(entries["forward"])
        held = {"states": list(plan.states), "caches": [list(c) for c in plan.caches]}
        simulation = FpgaExecutable.open(folder, held)
        weights = WeightsFile.open(folder / "weights.safetensors")
        compared = 0
        for name, graph in read_graphs(folder, entries).items():
            arrays = {w.name: weights.array(w) for w in graph.weights}
            expected = evaluate(graph, probes[name], arrays)
            found = simulation.run(name, probes[name])
            for output, numbers in expected.items():
                if not np.array_equal(numbers, found[output]):
                    wrong = int(np.count_nonzero(numbers != found[output]))
                    what = f"{wrong} of {numbers.size} numbers differ from the interpreter's"
                    raise MmcError(what, f"{name}: {output}", "this is a defect of mmc")
                compared += numbers.size
        return {"numbers": compared, "identical": True}


TARGET = FpgaTarget()
