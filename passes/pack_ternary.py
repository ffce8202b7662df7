"""Pack ternary matrices: 2, 1.67 or 1.6 bits a weight, in the tiles of `mmc.ir.packing`.

A trit carries 1.585 bits.  Fewer bytes are read faster and cost more instructions: "auto" weighs
both for each matrix (`mmc.passes.layout_cost`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeGuard

from mmc.errors import MmcError
from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin
from mmc.ir.ops.source import Weight
from mmc.ir.ops.ternary import PackTernary as Pack
from mmc.ir.ops.ternary import TernaryMatmul
from mmc.ir.packing import BLOCKS, Layout, packed_bytes
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, static_shape
from mmc.passes.base import Log, Pass
from mmc.passes.layout_cost import MACHINES, best_for_all, costs, whole_bytes

AUTO = "auto"

Shapes: TypeAlias = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class PackTernary(Pass):
    """layout: a layout, or "auto".  machine: for which of `MACHINES` that weighs."""

    name: ClassVar[str] = "pack-ternary"
    layout: str = "2bit"
    machine: str = "cpu"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        if self.layout not in (AUTO, *BLOCKS):
            raise MmcError(
                f"unknown layout {self.layout!r}", self.name, f"one of {', '.join((AUTO, *BLOCKS))}"
            )
        if self.machine not in MACHINES:
            raise MmcError(
                f"unknown machine {self.machine!r}", self.name, f"one of {', '.join(MACHINES)}"
            )
        matrices = {op.w for op in graph if isinstance(op, TernaryMatmul) and _packable(op.w)}
        shapes = [_shape(weight) for weight in matrices]
        packed: dict[Weight, Weight] = {}

        def step(old: Op, moved: Op) -> Value:
            if not isinstance(moved, TernaryMatmul) or not _packable(moved.w):
                return moved
            if moved.w not in packed:
                packed[moved.w] = self._pack(moved, moved.w, shapes, tensors, log)
            with origin(old.origin):
                return TernaryMatmul(moved.x, packed[moved.w])

        return graph.map(step)

    def _pack(
        self, op: Op, weight: Weight, shapes: Shapes, tensors: Tensors, log: Log
    ) -> Weight:  # fmt: skip
        n, k = _shape(weight)
        layout, why = self._choose(n, k, shapes)
        size = packed_bytes(n, k, layout)
        bits = f"{layout}, {size} bytes, {8 * size / (n * k):.3f} bits a weight"
        log.fire(op, layout, f"{weight.name} {n}x{k}: {bits}{why}")
        stem = weight.name.removesuffix(".trits")
        return tensors.add(
            f"{stem}.{layout}", weight.type.with_dtype(DType.packed(layout)), Pack(weight, layout)
        )

    def _choose(self, n: int, k: int, shapes: Shapes) -> tuple[Layout, str]:
        """The layout of a matrix, and the estimates that spoke for it."""
        if self.layout != AUTO:
            return next(layout for layout in BLOCKS if layout == self.layout), ""
        machine = MACHINES[self.machine]
        found = costs(n, k, whole_bytes(shapes), machine)
        layout = best_for_all(shapes, machine) if machine.alike else found[0].layout
        return layout, f"; estimated microseconds: {', '.join(map(str, found))}"


def _packable(weight: Value) -> TypeGuard[Weight]:
    return isinstance(weight, Weight) and weight.type.dtype is DType.TERNARY


def _shape(weight: Weight) -> tuple[int, int]:
    n, k = static_shape(weight.type.shape)
    return n, k


PASS = PackTernary
