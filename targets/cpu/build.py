# pyright: basic
# TVM does not type its targets.
"""Compile planned graphs for a processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmc.targets.cpu import dense_vnni
from mmc.targets.cpu.processor import Processor
from mmc.targets.cpu.ternary_matmul import ternary_matmul
from mmc.targets.tvm.plan import Plan
from mmc.targets.tvm.program import Program


def build_object(
    plans: Sequence[Plan], weights: Mapping[str, int], processor: Processor
) -> tuple[bytes, int]:
    """The object file with an entry for each plan, and how many distinct kernels it holds."""
    isa = processor.isa
    program = Program(
        weights,
        lambda n, k, layout: ternary_matmul(n, k, layout, isa),
        lambda body, name: dense_vnni.emit(body, name, isa),
    )
    for plan in plans:
        program.add(plan)
    kernels = {call.kernel.name for entry in program.entries for call in entry.calls}
    return program.build(processor.target), len(kernels)
