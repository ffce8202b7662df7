"""Pack ternary matrices: 2 bits a weight, or 5 weights a byte (1.6 bits), in the target's tiles.

3^5 = 243 of 256 values of a byte are used, 1.6 bits against the 1.585 that a trit carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmc.errors import MmcError
from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin
from mmc.ir.ops.source import Weight
from mmc.ir.ops.ternary import PackTernary as Pack
from mmc.ir.ops.ternary import TernaryMatmul
from mmc.ir.packing import MAX_COLUMNS, PLANES, Layout, packed_bytes
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, static_shape
from mmc.passes.base import Log, Pass


@dataclass(frozen=True)
class PackTernary(Pass):
    """layout: "2bit" or "1.6bit"; a matrix too wide for 1.6bit gets 2bit."""

    name: ClassVar[str] = "pack-ternary"
    layout: str = "2bit"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        if self.layout not in PLANES:
            raise MmcError(
                f"unknown layout {self.layout!r}", "pack-ternary", f"one of {', '.join(PLANES)}"
            )
        packed: dict[Weight, Weight] = {}

        def step(old: Op, moved: Op) -> Value:
            if not isinstance(moved, TernaryMatmul) or not isinstance(moved.w, Weight):
                return moved
            if moved.w.type.dtype is not DType.TERNARY:
                return moved
            if moved.w not in packed:
                packed[moved.w] = self._pack(moved, moved.w, tensors, log)
            with origin(old.origin):
                return TernaryMatmul(moved.x, packed[moved.w])

        return graph.map(step)

    def _pack(self, op: Op, weight: Weight, tensors: Tensors, log: Log) -> Weight:
        n, k = static_shape(weight.type.shape)
        layout: Layout = (
            "1.6bit" if self.layout == "1.6bit" and k <= MAX_COLUMNS["1.6bit"] else "2bit"
        )
        size = packed_bytes(n, k, layout)
        log.fire(
            op,
            layout,
            f"{weight.name} {n}x{k}: {size} bytes, {8 * size / (n * k):.3f} bits a weight",
        )
        stem = weight.name.removesuffix(".trits")
        return tensors.add(
            f"{stem}.{layout}", weight.type.with_dtype(DType.packed(layout)), Pack(weight, layout)
        )


PASS = PackTernary
