# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""What follows a multiplication where its sums are made (`mmc.targets.cuda.epilogue`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Value
from mmc.ir.packing import TILE_ROWS
from mmc.targets.cuda.exchange import Ahead, Exchanged, Held
from mmc.targets.tvm.elementary import hold
from mmc.targets.tvm.expressions import Elements, Index
from mmc.targets.tvm.memory import Place


class Columns:
    """What a thread does with the sums of a column; made before the row, to read ahead.

    start: the first of the block's columns, of which each thread has one.
    """

    def __init__(self, phase: Any, start: int) -> None:
        self.phase, kind = phase, phase.kind
        self.within = T.Bind(phase.thread + start)
        inputs = phase.inputs("next", kind.after.inputs, kind.after_sources)
        self.places: dict[Value, Any] = {
            value: Ahead(place) for value, place in inputs.items() if isinstance(place, Place)
        }
        self.elements = Elements(phase.symbols, self.places, lanes=1)
        last = kind.epilogue.columns - 1
        self.column = T.Bind(T.cast(phase.first * TILE_ROWS + self.within, "int64"))
        self.index = Index((0, T.Bind(T.min(self.column, T.int64(last)))), 1, True)
        for value in self.places:
            self.elements.operand(value, self.index)
        self.late = {
            value: place.look(self.index.axes[-1])
            for value, place in inputs.items() if isinstance(place, Exchanged)
        }  # fmt: skip

    def write(self, scalars: Mapping[int, Any]) -> None:
        kind = self.phase.kind
        own = self.within < self.phase.count * TILE_ROWS
        with T.If(own), T.Then(), self.elements.scope():
            for i, part in enumerate(kind.epilogue.parts):
                self.places[part.value] = Held(self._sum(i))
            self.places |= {value: Held(settled()) for value, settled in self.late.items()}
            for value, source in zip(kind.after.inputs, kind.after_sources, strict=True):
                if source.kind == "scalar":
                    self.places[value] = Held(scalars[source.number])
            for i, value in enumerate(kind.epilogue.made):
                made = self.elements.operand(value, self.index)
                for place in self._targets(i):
                    place.store((0, self.column), made)

    def _sum(self, part: int) -> Any:
        split = self.phase.kind.split
        tile = T.truncdiv(self.within, TILE_ROWS) + part * self.phase.kind.per_block
        first = T.Bind(tile * (split * TILE_ROWS) + self.within % TILE_ROWS)
        total = self.phase.sums[first]
        for i in range(1, split):
            total = total + self.phase.sums[first + i * TILE_ROWS]
        return hold(total)

    def _targets(self, position: int) -> list[Any]:
        phase, value = self.phase, self.phase.kind.epilogue.cut[position]
        found: list[Any] = []
        if f"cut_of_next_{position}" in phase.kind.arguments:
            found.append(phase.exchanged(f"cut_of_next_{position}", value))
        if position in phase.kind.kept:
            found.append(phase.place(f"kept_{position}", value))
        return found
