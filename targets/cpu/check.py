"""Check every kernel of a build for a processor against the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmc.ir.graph import Graph
from mmc.targets.base import Arrays
from mmc.targets.cpu.build import build_object
from mmc.targets.cpu.executable import CpuExecutable
from mmc.targets.cpu.processor import Processor
from mmc.targets.tvm.check import check_kernels
from mmc.targets.tvm.loader import Program
from mmc.targets.tvm.plan import Plan
from mmc.targets.weights_file import WeightsFile


def check_build(
    folder: Path, entries: Mapping[str, Graph], probes: Mapping[str, Arrays], processor: Processor
) -> dict[str, Any]:
    """Compare every kernel of every entry; raise MmcError where one is wrong."""
    weights = WeightsFile.open(folder / "weights.safetensors")
    plans = {name: Plan(graph, keep_all=True) for name, graph in entries.items()}
    code, _ = build_object(list(plans.values()), weights.offsets, processor)
    executable = CpuExecutable(Program(code), weights, plans)
    return check_kernels(processor.isa, plans, lambda name: executable.call(name, probes[name]))
