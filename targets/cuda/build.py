"""Compile graphs for GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmc.ir.graph import Graph
from mmc.targets.base import Built, Progress
from mmc.targets.cuda.compiler import compile_source
from mmc.targets.cuda.launches import Entry, to_json
from mmc.targets.cuda.program import Program, source
from mmc.targets.cuda.tuning import Tuning
from mmc.targets.tvm.plan import Plan

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Generated:
    """The source for one architecture, the launches by entry, and the number of kernels."""

    text: str
    launches: Mapping[str, Entry]
    kernels: int


def generate(plans: Mapping[str, Plan], architecture: str, tuning: Tuning) -> Generated:
    """The CUDA source of all plans together."""
    program = Program(tuning)
    launches = {
        name: Entry(program.groups(plan), program.persistent(plan, name))
        for name, plan in plans.items()
    }
    text, ordered = source(launches, program, architecture)
    return Generated(text, ordered, len(program.kernels))


def write(
    lib: Path, entries: Mapping[str, Graph], architectures: Sequence[str], tuning: Tuning,
    progress: Progress,
) -> Built:  # fmt: skip
    """Write the source, the launches, and code for each architecture into a new folder."""
    lib.mkdir()
    made = generate({n: Plan(graph) for n, graph in entries.items()}, architectures[0], tuning)
    text = made.text + runtime_source()
    (lib / "kernels.cu").write_text(text)
    (lib / "launches.json").write_text(to_json(made.launches))
    sizes: dict[str, int] = {}
    for name in architectures:
        progress(f"code for {name}")
        code = compile_source(text, name)
        (lib / f"{name}.cubin").write_bytes(code)
        sizes[name] = len(code)
    return Built({"architectures": sizes, "distinct_kernels": made.kernels})


def runtime_source() -> str:
    """What the runtime launches besides the kernels of a graph."""
    return "".join((_HERE / name).read_text() for name in ("device.cuh", "runtime.cuh"))
