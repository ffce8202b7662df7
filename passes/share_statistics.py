"""Normalise one vector once: projections with gains of their own share its mean square.

In the released MatMul-free LM the i, f and g projections each apply an RMSNorm of their own to
one vector.  The three differ in the gain alone; the statistic 1 / sqrt(mean(x^2) + eps) is one
number a row.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin
from mmc.ir.ops.norm import RmsStatistic
from mmc.ir.ops.ternary import RmsNormQuantize, ScaleQuantize
from mmc.ir.tensors import Tensors
from mmc.passes.base import Log, Pass


@dataclass(frozen=True)
class ShareStatistics(Pass):
    name: ClassVar[str] = "share-statistics"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        norms = [op for op in graph if isinstance(op, RmsNormQuantize)]
        readers = Counter((op.x, op.eps) for op in norms)

        def step(old: Op, moved: Op) -> Value:
            if not isinstance(old, RmsNormQuantize) or not isinstance(moved, RmsNormQuantize):
                return moved
            count = readers[old.x, old.eps]
            if count < 2:
                log.skip(old, "the only norm of its vector")
                return moved
            log.fire(old, "share", f"one statistic serves {count} norms of one vector")
            with origin(old.origin):
                statistic = RmsStatistic(moved.x, moved.eps)
                return ScaleQuantize(moved.x, statistic, moved.gain, moved.by)

        return graph.map(step)


PASS = ShareStatistics
