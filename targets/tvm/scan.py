# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Recurrences: step by step along one axis, 16 columns at a time, threads over column blocks.

    h[t] = a[t] * h[t-1] + b[t]

The running h stays in a register; a, b and whatever follows h are computed in the step.  A task is
a block of 64 columns of one sequence, so that each step touches whole cache lines.  Bound: memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Op, Value
from mmc.ir.ops.recurrence import LinearRecurrence
from mmc.targets.tvm.elementary import Vector, hold, number
from mmc.targets.tvm.expressions import Elements, Index
from mmc.targets.tvm.fold import LANES, register, serial
from mmc.targets.tvm.memory import COMPUTED, Place, as_expression, is_one, size_of, unravel
from mmc.targets.tvm.schedule import Nest

BLOCK = 4
"""Vectors in a task."""


def write(
    elements: Elements, nest: Nest, stores: Sequence[tuple[Value, Place]], parallel_work: int
) -> None:
    """The loops of a nest with recurrences."""
    Scan(elements, nest, stores, parallel_work).write()


class Scan:
    """A nest with recurrences; `task` runs some columns of one sequence over all steps."""

    def __init__(
        self, elements: Elements, nest: Nest, stores: Sequence[tuple[Value, Place]], work: int = 0
    ) -> None:
        self.elements, self.nest, self.stores = elements, nest, stores
        self.parallel_work = work
        self.shape = nest.lead
        rank = len(self.shape)
        self.axis = nest.recurrences[0].attributes["axis"] % rank
        self.sizes = elements.sizes(self.shape)
        columns = 1 if self.axis == rank - 1 else self.sizes[-1]
        self.columns = columns
        self.outer = [i for i in range(rank) if i != self.axis and i != rank - 1]

    def write(self) -> None:
        """Whole blocks, then single vectors, then single columns."""
        start: Any = 0
        for vectors, lanes in ((BLOCK, LANES), (1, LANES), (1, 1)):
            width = vectors * lanes
            left = self.columns - start
            blocks = left // width if isinstance(left, int) else T.floordiv(left, width)
            if isinstance(blocks, int) and blocks == 0:
                continue
            self._tasks(blocks, start, vectors, lanes)
            start = start + blocks * width

    def _tasks(self, blocks: Any, start: Any, vectors: int, lanes: int) -> None:
        sizes = [*(self.sizes[i] for i in self.outer), blocks]
        tasks: Any = 1
        for size in sizes:
            tasks = tasks * size

        def run(task: Any) -> None:
            *outer, block = unravel(task, sizes)
            self.task(
                outer, T.Bind(as_expression(block * (vectors * lanes) + start)), vectors, lanes
            )

        if isinstance(tasks, int) and tasks == 1:
            run(0)
            return
        steps = as_expression(self.sizes[self.axis])
        self._serial_or_parallel(tasks, steps * (tasks * vectors * lanes), run)

    def _serial_or_parallel(self, tasks: Any, work: Any, run: Callable[[Any], None]) -> None:
        with T.If(work < self.parallel_work):
            with T.Then(), serial(tasks) as task:
                run(task)
            with T.Else(), T.parallel(T.int64(0), as_expression(tasks)) as task:
                run(task)

    def axes(self, outer: Sequence[Any], step: Any, column: Any) -> tuple[Any, ...]:
        axes: list[Any] = [column] * len(self.shape)
        for position, axis in zip(self.outer, outer, strict=True):
            axes[position] = axis
        axes[self.axis] = step
        return tuple(0 if is_one(dim) else axis for dim, axis in zip(self.shape, axes, strict=True))

    def task(self, outer: Sequence[Any], column: Any, vectors: int, lanes: int) -> None:
        e = self.elements
        starts = [T.Bind(column + i * lanes) for i in range(vectors)]
        registers = []
        with e.scope():
            for start in starts:
                axes = self.axes(outer, 0, start)
                first = (*axes[: self.axis], *axes[self.axis + 1 :])
                registers.append([self._first(op, first, lanes) for op in self.nest.recurrences])
        with serial(size_of(self.shape[self.axis], e.symbols)) as step, e.scope():
            for start, carried in zip(starts, registers, strict=True):
                self._step(Index(self.axes(outer, step, start), lanes), carried)

    def _first(self, op: Op, axes: tuple[Any, ...], lanes: int) -> Any:
        dtype = COMPUTED[op.types[0].dtype]
        if isinstance(op, LinearRecurrence):
            return register(dtype, lanes, self.elements.at(op.h0, Index(axes, lanes)))
        return register(dtype, lanes, number(0, dtype, lanes))

    def _step(self, index: Index, carried: Sequence[Any]) -> None:
        e = self.elements
        for op, h in zip(self.nest.recurrences, carried, strict=True):
            e.remember(op.results[0], index, self._next(op, h, index))
        for value, place in self.stores:
            place.store(index.axes, e.operand(value, index))

    def _next(self, op: Any, h: Any, index: Index) -> Vector:
        if isinstance(op, LinearRecurrence):
            a, b = self.elements.operand(op.a, index), self.elements.operand(op.b, index)
            made = hold(a * h[0] + b)
        else:
            made = hold(h[0] + self.elements.operand(op.x, index))
        T.buffer_store(h, made, [0])
        return made
