# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""A recurrence over many steps, bit for bit as if it went step by step.

    h[t] = a[t] * h[t-1] + b[t]

What costs time is a and b (gates), which need no h.  So a block takes 8 columns of a sequence and
goes through the steps 128 at a time, in turns.  In turn i all its warps but the last ask for what
chunk i + 1 needs, and compute a and b of chunk i; the last one runs the recurrence through chunk
i - 1, and then the others compute what follows h there.  Bound: instructions of the gates, memory,
and one multiply-add behind the other for each step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Value, producer
from mmc.ir.ops.recurrence import LinearRecurrence
from mmc.targets.cuda.block import Block
from mmc.targets.cuda.row import Registers
from mmc.targets.tvm import pointwise
from mmc.targets.tvm.expressions import Elements, Index
from mmc.targets.tvm.fold import register, serial
from mmc.targets.tvm.memory import COMPUTED, Place, as_expression, unravel
from mmc.targets.tvm.scan import Scan
from mmc.targets.tvm.schedule import Nest

COLUMNS = 8
PLACES = 32
"""Threads for each column; each has every 32nd step."""

EACH = 4
STEPS = PLACES * EACH
_MAKERS = COLUMNS * PLACES
THREADS = _MAKERS + 32
_TOGETHER = 8
"""Steps of the recurrence that are read together."""


def is_chunked(nest: Nest) -> bool:
    """Whether `write` does the nest: one linear recurrence, not along the columns."""
    if len(nest.recurrences) != 1 or not isinstance(nest.recurrences[0], LinearRecurrence):
        return False
    return nest.recurrences[0].axis != len(nest.lead) - 1


def write(
    elements: Elements, nest: Nest, stores: Sequence[tuple[Value, Place]], group: Block
) -> None:
    """The statements of a block: its index counts sequences times groups of columns."""
    walk = _Walk(elements, nest, stores, group)
    walk.begin()
    with serial(walk.chunks + 1) as turn:
        last = T.Bind(turn - 1)
        with T.If(walk.makes):
            with T.Then():
                walk.make(turn, last)
            with T.Else(), T.If(T.And(turn > 0, group.thread < _MAKERS + COLUMNS)), T.Then():
                walk.recur(last)
        T.evaluate(T.cuda.cta_sync())
        with T.If(T.And(T.And(turn > 0, walk.makes), walk.exists)), T.Then():
            walk.follow(last)


class _Walk:
    """A block's way through the steps of some columns of a sequence.

    coming, present: what a and b of the next chunk and of this one need.  behind: what follows h
    in the chunk before.
    """

    def __init__(
        self, elements: Elements, nest: Nest, stores: Sequence[tuple[Value, Place]], group: Block
    ) -> None:
        e, scan = elements, Scan(elements, nest, stores)
        self.elements, self.scan, self.stores, self.group = e, scan, stores, group
        self.op: Any = nest.recurrences[0]
        columns = as_expression(scan.columns)
        sizes = [*(scan.sizes[i] for i in scan.outer), T.ceildiv(columns, COLUMNS)]
        parts = unravel(group.index, sizes) if len(sizes) > 1 else (group.index,)
        self.outer = parts[:-1]
        self.place, self.lane = T.truncdiv(group.thread, COLUMNS), group.thread % COLUMNS
        wanted = T.Bind(parts[-1] * COLUMNS + self.lane)
        self.exists = wanted < columns
        self.column = T.Bind(T.min(wanted, columns - 1))
        self.steps = as_expression(scan.sizes[scan.axis])
        self.chunks = T.Bind(T.ceildiv(self.steps, STEPS))
        self.makes = group.thread < _MAKERS
        shape = (2 * STEPS * COLUMNS,)
        self.a, self.b = (T.alloc_buffer(shape, "float32", scope="shared") for _ in range(2))
        before = _read((self.op.a, self.op.b), e.places)
        self.coming, self.present = _Ahead(e, before), _Ahead(e, before)
        self.behind = _Ahead(e, _read([value for value, _ in stores], e.places))
        self.h = register("float32", 1, T.float32(0))

    def begin(self) -> None:
        """Ask for the first chunk, and for the state."""
        axis = self.scan.axis
        with T.If(self.makes):
            with T.Then():
                self._load(self.coming, T.int64(0))
            with T.Else(), self.elements.scope():
                axes = self.scan.axes(self.outer, 0, self.column)
                at = Index((*axes[:axis], *axes[axis + 1 :]))
                T.buffer_store(self.h, self.elements.at(self.op.h0, at), [0])

    def make(self, turn: Any, last: Any) -> None:
        """Compute a and b of a chunk, and ask for what is needed next."""
        e = self.elements
        self.present.take(self.coming)
        with T.If(T.And(turn > 0, self._reaches(last))), T.Then():
            self._load(self.behind, last)
        with T.If(self._reaches(turn + 1)), T.Then():
            self._load(self.coming, turn + 1)
        with T.If(self._reaches(turn)), T.Then():
            at = T.Bind(turn % 2 * (STEPS * COLUMNS) + self.group.thread)
            for i, index in enumerate(self._indices(self._existing(turn))):
                with self.present.at(i):
                    T.buffer_store(self.a, e.operand(self.op.a, index), [at + i * _MAKERS])
                    T.buffer_store(self.b, e.operand(self.op.b, index), [at + i * _MAKERS])

    def recur(self, last: Any) -> None:
        """Run through a chunk."""
        start = last % 2 * (STEPS * COLUMNS) + self.lane
        _recur(self.a, self.b, self.h, start, self.steps - last * STEPS)

    def follow(self, last: Any) -> None:
        """Compute and store what follows h in a chunk."""
        at = T.Bind(last % 2 * (STEPS * COLUMNS) + self.group.thread)
        steps = self._steps(last)
        with T.If(self._is_whole(last)):
            with T.Then():
                for i, step in enumerate(steps):
                    self._follow(i, step, at)
            with T.Else():
                for i, step in enumerate(steps):
                    with T.If(step < self.steps), T.Then():
                        self._follow(i, step, at)

    def _follow(self, i: int, step: Any, at: Any) -> None:
        e = self.elements
        index = Index(self.scan.axes(self.outer, step, self.column))
        with self.behind.at(i):
            e.remember(self.op.results[0], index, self.b[at + i * _MAKERS])
            for value, target in self.stores:
                target.store(index.axes, e.operand(value, index))

    def _reaches(self, chunk: Any) -> Any:
        """Whether a thread has a step in a chunk."""
        return chunk * STEPS + self.place < self.steps

    def _is_whole(self, chunk: Any) -> Any:
        """Whether all threads have all their steps of a chunk."""
        return (chunk + 1) * STEPS <= self.steps

    def _steps(self, chunk: Any) -> list[Any]:
        """A thread's steps of a chunk: addresses that differ by constants."""
        first = T.Bind(chunk * STEPS + self.place)
        return [first + i * PLACES for i in range(EACH)]

    def _existing(self, chunk: Any) -> list[Any]:
        """The same; past the last step, the last one again."""
        return [T.Bind(T.min(step, self.steps - 1)) for step in self._steps(chunk)]

    def _load(self, ahead: _Ahead, chunk: Any) -> None:
        """Ask for what a chunk needs."""
        with T.If(self._is_whole(chunk)):
            with T.Then():
                ahead.load(self._indices(self._steps(chunk)))
            with T.Else():
                ahead.load(self._indices(self._existing(chunk)))

    def _indices(self, steps: Sequence[Any]) -> list[Index]:
        return [Index(self.scan.axes(self.outer, step, self.column)) for step in steps]


class _Ahead:
    """Values of a thread's steps of a chunk, in registers: asked for a turn before their use."""

    def __init__(self, elements: Elements, values: Sequence[Value]) -> None:
        self.elements = elements
        self.held = {
            v: T.alloc_buffer((EACH,), COMPUTED[v.type.dtype], scope="local") for v in values
        }

    def load(self, indices: Sequence[Index]) -> None:
        for i, index in enumerate(indices):
            with self.elements.scope():
                for value, buffer in self.held.items():
                    T.buffer_store(buffer, self.elements.operand(value, index), [i])

    def take(self, other: _Ahead) -> None:
        """Take over what another one holds."""
        for value, buffer in self.held.items():
            for i in range(EACH):
                T.buffer_store(buffer, other.held[value][i], [i])

    @contextlib.contextmanager
    def at(self, step: int) -> Iterator[None]:
        """Inside, the values are those of a step."""
        e = self.elements
        places = {**e.places}
        e.places.update((v, Registers(b, v.type, step)) for v, b in self.held.items())
        try:
            with e.scope():
                yield
        finally:
            e.places = places


def _read(values: Sequence[Value], stored: Container[Value]) -> list[Value]:
    """What lies in memory and is read at the very index at which the values are computed."""
    found: dict[Value, None] = {}
    pending = list(values)
    while pending:
        value = pending.pop()
        if value not in found:
            found[value] = None
            op = producer(value)
            if value not in stored and pointwise.covers(op):
                pending += op.operands
    return [value for value in found if value in stored and value.type.shape]


def _recur(a: Any, b: Any, h: Any, start: Any, steps: Any) -> None:
    """Run through a chunk, at most as many steps as there are; h takes the place of b.

    Some steps are read while those before are computed: a step shall wait for h alone.
    """
    read = [
        [T.alloc_buffer((_TOGETHER,), "float32", scope="local") for _ in (a, b)] for _ in range(2)
    ]

    def load(first: Any, group: int) -> None:
        for source, held in zip((a, b), read[group % 2], strict=True):
            for i in range(_TOGETHER):
                at = first + (group * _TOGETHER + i) * COLUMNS
                T.buffer_store(held, source[at], [i])

    with serial(T.min(T.int64(EACH), T.ceildiv(steps, PLACES))) as part:
        first = T.Bind(T.cast(start + part * _MAKERS, "int32"))
        load(first, 0)
        for group in range(PLACES // _TOGETHER):
            if (group + 1) * _TOGETHER < PLACES:
                load(first, group + 1)
            now = read[group % 2]
            for i in range(_TOGETHER):
                T.buffer_store(h, now[0][i] * h[0] + now[1][i], [0])
                T.buffer_store(b, h[0], [first + (group * _TOGETHER + i) * COLUMNS])
