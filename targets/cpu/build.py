# pyright: basic
# TVM does not type its targets.
"""Compile planned graphs for an instruction set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm

from mmc.targets.cpu.features import Isa
from mmc.targets.cpu.ternary_matmul import CPU, ternary_matmul
from mmc.targets.tvm.plan import Plan
from mmc.targets.tvm.program import Program


def build_object(plans: Sequence[Plan], weights: Mapping[str, int], isa: Isa) -> tuple[bytes, int]:
    """The object file with an entry for each plan, and how many distinct kernels it holds."""
    program = Program(weights, lambda n, k, layout: ternary_matmul(n, k, layout, isa))
    for plan in plans:
        program.add(plan)
    target = tvm.target.Target({"kind": "llvm", "mcpu": CPU[isa]})
    kernels = {call.kernel.name for entry in program.entries for call in entry.calls}
    return program.build(target), len(kernels)
