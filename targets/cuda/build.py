"""Compile planned graphs for GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mmc.targets.cuda.launches import Entry
from mmc.targets.cuda.program import Program, source
from mmc.targets.tvm.plan import Plan

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Generated:
    """The source for one architecture, the launches by entry, and the number of kernels."""

    text: str
    launches: Mapping[str, Entry]
    kernels: int


def generate(plans: Mapping[str, Plan], architecture: str) -> Generated:
    """The CUDA source of all plans together."""
    program = Program()
    launches = {
        name: Entry(program.groups(plan), program.persistent(plan, name))
        for name, plan in plans.items()
    }
    text, ordered = source(launches, program, architecture)
    return Generated(text, ordered, len(program.kernels))


def runtime_source() -> str:
    """What the runtime launches besides the kernels of a graph."""
    return "".join((_HERE / name).read_text() for name in ("device.cuh", "runtime.cuh"))
