"""The CPU target: TIR kernels through TVM and LLVM, one call for a token and one for a prompt.

lib/ holds the same program for each instruction set; the best one that the processor has is loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmc.ir.graph import Graph
from mmc.ir.op import Op
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.ternary import TernaryMatmul
from mmc.ir.tensors import Tensors
from mmc.targets.base import Arrays, Built, Capabilities, Executable, Progress, Target
from mmc.targets.cpu.features import ISA_FLAGS, processor_problems
from mmc.targets.weights_file import WeightsFile


class CpuTarget(Target):
    name: ClassVar[str] = "cpu"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "x86-64 through TVM and LLVM: AVX-512 VNNI, or AVX2 where that is missing",
        ("2bit", "1.6bit"),
        kernels=True,
    )

    def problems(self) -> list[str]:
        wanted = ("tvm", "tvm_ffi_orcjit")
        missing = [
            f"the package of {name} is not installed"
            for name in wanted
            if not importlib.util.find_spec(name)
        ]
        return missing + processor_problems()

    def unsupported(self, graph: Graph) -> list[tuple[Op, str]]:
        from mmc.targets.tvm.coverage import unsupported
        from mmc.targets.tvm.plan import unplaced

        wrong = unplaced(graph)
        for op in graph:
            if isinstance(op, Kernel) and not any(
                isinstance(inner, TernaryMatmul) for inner in op.body
            ):
                wrong += [
                    (
                        op if inner.origin is None else inner,
                        f"the CPU has no kernel for {inner.mnemonic}",
                    )
                    for inner in unsupported(op.body)
                ]
        return wrong

    def build(
        self, entries: Mapping[str, Graph], tensors: Tensors, folder: Path, progress: Progress
    ) -> Built:
        from mmc.targets.cpu.build import build_object
        from mmc.targets.tvm.plan import Plan

        offsets = WeightsFile.open(folder / "weights.safetensors").offsets
        (folder / "lib").mkdir()
        sizes: dict[str, int] = {}
        kernels = 0
        for isa in ISA_FLAGS:
            progress(f"code for {isa}")
            code, kernels = build_object([Plan(graph) for graph in entries.values()], offsets, isa)
            (folder / "lib" / f"{isa}.o").write_bytes(code)
            sizes[isa] = len(code)
        return Built({"instruction_sets": sizes, "distinct_kernels": kernels})

    def load(self, folder: Path, entries: Sequence[str]) -> Executable:
        from mmc.targets.cpu.executable import CpuExecutable

        return CpuExecutable.open(folder, entries)

    def check(self, folder: Path, entries: Mapping[str, Graph], probe: Arrays) -> dict[str, Any]:
        from mmc.targets.cpu.check import check_kernels

        return check_kernels(folder, entries, probe)


TARGET = CpuTarget()
