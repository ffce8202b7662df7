"""The CUDA target: TIR kernels through TVM and NVRTC, run through the driver.

lib/ holds the launches, the source, and a cubin for each architecture; for a GPU that none of them
is for, the source is compiled when it is loaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.ir.op import Op
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.ternary import TernaryMatmul
from mmc.ir.tensors import Tensors
from mmc.ir.types import static_shape
from mmc.targets.base import (
    Arrays,
    BuildOptions,
    Built,
    Capabilities,
    Executable,
    Progress,
    Target,
)
from mmc.targets.cuda import architecture
from mmc.targets.cuda.driver import installed


class CudaTarget(Target):
    name: ClassVar[str] = "cuda"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "NVIDIA GPUs from Ampere on, through TVM and NVRTC; compiles without a GPU",
        ("auto", "2bit", "1.6bit"),
        machine="gpu",
        kernels=True,
        token=True,
        tunes=True,
        factors=True,
        prompt_rows=2048,
        embedding_memories=("device", "host"),
    )

    def problems(self) -> list[str]:
        return _missing({"cuda.bindings": "cuda-bindings"})

    def here(self) -> str:
        from mmc.targets.cuda import driver

        why = driver.problem()
        return f"compiles, does not run: {why}" if why else f"GPU {driver.device().name}"

    def unsupported(self, graph: Graph) -> list[tuple[Op, str]]:
        from mmc.targets.cuda.rows import unreachable
        from mmc.targets.tvm.attention import has_kernel
        from mmc.targets.tvm.coverage import unsupported
        from mmc.targets.tvm.plan import unplaced

        wrong = [*unplaced(graph), *_too_long(graph)]
        for op in graph:
            if not isinstance(op, Kernel) or has_kernel(op.body):
                continue
            if not any(isinstance(x, TernaryMatmul) for x in op.body):
                wrong += [
                    (op if x.origin is None else x, f"a GPU has no kernel for {x.mnemonic}")
                    for x in unsupported(op.body)
                ]
                wrong += [
                    (op, "a GPU has no kernel for the maximum of a whole tensor behind a norm")
                    for _ in unreachable(op.body)
                ]
        return wrong

    def refuse(self, options: BuildOptions) -> None:
        from mmc.targets.cuda.compiler import known_architectures

        if missing := _missing({"tvm": "apache-tvm"}):
            raise MmcError(missing[0], "target cuda")
        known = known_architectures()
        if options.mcpu is not None:
            architecture.require(options.mcpu, known)
        if options.tuning is not None:
            from mmc.targets.cuda.tuning import read

            read(options.tuning)
        if options.check:
            from mmc.targets.cuda import driver

            if why := driver.problem():
                raise MmcError(f"needs a GPU: {why}", "--check", "leave it out")

    def build(
        self,
        entries: Mapping[str, Graph],
        tensors: Tensors,
        folder: Path,
        progress: Progress,
        options: BuildOptions,
    ) -> Built:
        from mmc.targets.cuda.build import write
        from mmc.targets.cuda.tuning import FILE, Tuning, read

        tuning = Tuning()
        if options.tuning is not None:
            tuning = read(options.tuning)
            shutil.copyfile(options.tuning, folder / FILE)
        names = (options.mcpu,) if options.mcpu else architecture.DEFAULT
        return write(folder / "lib", entries, names, tuning, progress)

    def load(
        self, folder: Path, entries: Sequence[str], built: Mapping[str, Any], *,
        embedding_memory: str = "device",
    ) -> Executable:  # fmt: skip
        from mmc.targets.cuda import driver
        from mmc.targets.cuda.executable import CudaExecutable

        if why := driver.problem():
            raise MmcError(
                f"cannot run here: {why}",
                str(folder),
                "run it where there is an NVIDIA GPU, or compile with --target cpu",
            )
        return CudaExecutable.open(folder, entries, embedding_memory=embedding_memory)

    def check(
        self,
        folder: Path,
        entries: Mapping[str, Graph],
        probes: Mapping[str, Arrays],
        options: BuildOptions,
    ) -> dict[str, Any]:
        from mmc.targets.cuda.driver import device
        from mmc.targets.cuda.executable import CudaExecutable
        from mmc.targets.tvm.check import Arenas, check_kernels

        executable = CudaExecutable.open(folder, list(entries), keep_all=True)

        def call(entry: str) -> Arenas:
            return executable.call(entry, probes[entry])

        return check_kernels(device().name, executable.plans, call)

    def tune(
        self, folder: Path, entries: Mapping[str, Graph], built: Mapping[str, Any],
        progress: Callable[[str, float], None],
    ) -> tuple[Built, Sequence[str]]:  # fmt: skip
        from mmc.targets.cuda import driver

        if missing := _missing({"tvm": "apache-tvm"}):
            raise MmcError(missing[0], "target cuda")
        if why := driver.problem():
            raise MmcError(f"needs a GPU: {why}", str(folder), "tune where the model shall run")
        from mmc.targets.cuda.tune import tune

        return tune(folder, entries, tuple(built["architectures"]), progress)


def _too_long(graph: Graph) -> list[tuple[Op, str]]:
    """Products whose sums may not fit into 32 bits."""
    most = architecture.MOST_COLUMNS
    return [
        (op, f"a GPU adds up at most {most} columns")
        for kernel in graph
        if isinstance(kernel, Kernel)
        for op in kernel.body
        if isinstance(op, TernaryMatmul) and static_shape(op.w.type.shape)[1] > most
    ]


def _missing(packages: Mapping[str, str]) -> list[str]:
    """What must be installed, by the name that is imported."""
    return [
        f"the package {package} is not installed: pip install mmc-compiler[cuda]"
        for name, package in packages.items()
        if not installed(name)
    ]


TARGET = CudaTarget()
