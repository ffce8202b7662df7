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
from mmc.targets.base import (
    Arrays,
    BuildOptions,
    Built,
    Capabilities,
    Executable,
    Progress,
    Target,
)
from mmc.targets.cpu.features import (
    choose_isa,
    processor_problems,
    require_flags,
    require_only,
)
from mmc.targets.weights_file import WeightsFile


class CpuTarget(Target):
    name: ClassVar[str] = "cpu"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "x86-64 through TVM and LLVM: AVX-512 VNNI, AVX-VNNI, AVX2, or neither",
        ("auto", "2bit", "1.67bit", "1.6bit"),
        kernels=True,
        sums_states=1024,
        widens=True,
        kv_caches=("int8",),
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
        from mmc.targets.tvm.program import SPECIAL

        wrong = unplaced(graph)
        for op in graph:
            if not isinstance(op, Kernel) or any(kind.has_kernel(op.body) for kind in SPECIAL):
                continue
            if not any(isinstance(inner, TernaryMatmul) for inner in op.body):
                wrong += [
                    (
                        op if inner.origin is None else inner,
                        f"the CPU has no kernel for {inner.mnemonic}",
                    )
                    for inner in unsupported(op.body)
                ]
        return wrong

    def here(self) -> str:
        return f"instruction set {choose_isa()}"

    def default_layout(self, options: BuildOptions) -> str:
        """Without AVX-512 the denser layouts cost more instructions than they save bytes."""
        from mmc.targets.cpu.processor import processor_named

        isa = choose_isa() if options.mcpu is None else processor_named(options.mcpu).isa
        return "auto" if isa == "avx512_vnni" else "2bit"

    def refuse(self, options: BuildOptions) -> None:
        if options.mcpu is None:
            return
        from mmc.targets.cpu.processor import processor_named

        processor = processor_named(options.mcpu)
        if options.check:
            require_flags(processor.flags, f"code for {options.mcpu}", "--check", "leave it out")

    def build(
        self,
        entries: Mapping[str, Graph],
        tensors: Tensors,
        folder: Path,
        progress: Progress,
        options: BuildOptions,
    ) -> Built:
        from mmc.targets.cpu.build import build_object
        from mmc.targets.cpu.processor import PROCESSORS, Processor, processor_named
        from mmc.targets.tvm.plan import Plan

        offsets = WeightsFile.open(folder / "weights.safetensors").offsets
        (folder / "lib").mkdir()
        chosen: dict[str, Processor] = {**PROCESSORS}
        if options.mcpu is not None:
            processor = processor_named(options.mcpu)
            chosen = {processor.mcpu: processor}
        sizes: dict[str, int] = {}
        kernels = 0
        for name, processor in chosen.items():
            progress(f"code for {name}")
            plans = [Plan(graph) for graph in entries.values()]
            code, kernels = build_object(plans, offsets, processor)
            (folder / "lib" / f"{name}.o").write_bytes(code)
            sizes[name] = len(code)
        facts = {"instruction_sets": sizes, "distinct_kernels": kernels}
        if options.mcpu is not None:
            ((name, processor),) = chosen.items()
            facts |= {"mcpu": name, "cpu_flags": sorted(processor.flags)}
        return Built(facts)

    def load(
        self, folder: Path, entries: Sequence[str], built: Mapping[str, Any], *,
        embedding_memory: str = "device",
    ) -> Executable:  # fmt: skip
        from mmc.targets.cpu.executable import CpuExecutable

        if "mcpu" not in built:
            return CpuExecutable.open(folder, entries, choose_isa())
        require_only(built["mcpu"], frozenset(built["cpu_flags"]))
        return CpuExecutable.open(folder, entries, built["mcpu"])

    def check(
        self,
        folder: Path,
        entries: Mapping[str, Graph],
        probes: Mapping[str, Arrays],
        options: BuildOptions,
    ) -> dict[str, Any]:
        from mmc.targets.cpu.check import check_build
        from mmc.targets.cpu.processor import PROCESSORS, processor_named

        named = None if options.mcpu is None else processor_named(options.mcpu)
        processor = named or PROCESSORS[choose_isa()]
        return check_build(folder, entries, probes, processor)


TARGET = CpuTarget()
