# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""One kernel that runs a graph on one row phase by phase (`mmc.targets.cuda.phases`).

A block for each processor, all on the device at once; in each 8 warps that compute, and one that
asks for weights.  A phase in a block:

    wait for words and weights       they were asked for phases ago
    read what the epilogue needs     while other blocks still make the row
    wait for the row, compute it     every block alike; int8 activations stay in shared memory
    multiply                         tiles of the matrices, digits from shared memory
    epilogue                         a thread for each column; floats go to all blocks

Bound: the way of a float from one block to all others, and two or three reductions of a block.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Value
from mmc.ir.packing import TILE_ROWS
from mmc.targets.cuda.block import Block
from mmc.targets.cuda.code import DeviceKernel, call, do, make_kernel
from mmc.targets.cuda.exchange import (
    Activations,
    Exchanged,
    FirstBlock,
    Held,
    pointer,
    pointer_type,
)
from mmc.targets.cuda.fused import THREADS
from mmc.targets.cuda.phases import (
    HEAD,
    RING_BYTES,
    SLOTS,
    WORDS,
    Kind,
    Phases,
    is_columnwise,
    row_plan,
)
from mmc.targets.cuda.row import Row
from mmc.targets.cuda.ternary import SUMS, multiply_in_place, store_part, zeros
from mmc.targets.tvm.elementary import hold
from mmc.targets.tvm.expressions import Elements, Index
from mmc.targets.tvm.memory import STORED, Place
from mmc.targets.tvm.primitives import primitive_outputs
from mmc.targets.tvm.rowwise import ROWS
from mmc.targets.tvm.stages import Plan

_WARP = 32
_WARPS = THREADS // _WARP

SHARED_BYTES = 8 * SLOTS * (2 + WORDS) + RING_BYTES
"""Dynamic shared memory: `Supply` in persistent.cuh, then the ring."""

MOST_STATIC = 12 << 10
"""Shared memory besides, for activations and sums; reductions take a little more."""

PARAMETERS = {"table": "int64*", "exchange": "float32*", "finished": "uint64*", "phases": "int64"}


def emit(phases: Phases, name: str) -> DeviceKernel | None:
    """The kernel of the phases; None where a row's program needs what it has not."""
    plans = [row_plan(kind) for kind in phases.kinds]
    if not all(map(is_columnwise, phases.kinds, plans)):
        return None
    most = [max(kind.shared[i] for kind in phases.kinds) for i in range(2)]
    if most[0] + 4 * most[1] > MOST_STATIC:
        return None
    write = functools.partial(_write, phases, plans, most)
    return make_kernel(name, PARAMETERS, THREADS + _WARP, write)


def _write(
    phases: Phases, plans: Sequence[Plan], sizes: Sequence[int], block: Any, thread: Any,
    table: Any, exchange: Any, finished: Any, count: Any,
) -> None:  # fmt: skip
    area = hold(call("mmc_area", "int32", T.address_of(finished[0])))
    do("mmc_begin_phases")
    with T.If(thread >= THREADS):
        with T.Then():
            do("mmc_supply", T.address_of(table[0]), count)
        with T.Else():
            dtypes = "int8", "int32"
            shared = [
                T.alloc_buffer((size,), dtype, scope="shared")
                for size, dtype in zip(sizes, dtypes, strict=True)
            ]
            areas = [T.Bind(T.cast(x, "int64") * phases.floats) for x in (area, 1 - area)]
            with T.serial(T.int64(0), count) as number:
                words = pointer(call("mmc_begin_phase", pointer_type("int64"), number), "int64")
                given = words, (exchange, *areas), shared
                _one_of(hold(words[0] + 0), list(zip(phases.kinds, plans, strict=True)), given)
                do("mmc_end_phase", number)
    do("mmc_end_phases", T.address_of(finished[0]))


def _one_of(wanted: Any, kinds: Sequence[tuple[Kind, Plan]], given: Any, number: int = 0) -> None:
    """The phase of the kind that is wanted, unless the block has no tile of it."""
    kind, plan = kinds[number]
    with T.If(T.EQ(wanted, T.int64(number))):
        with T.Then():
            phase = _Phase(kind, plan, *given)
            with T.If(phase.first < kind.tiles), T.Then():
                phase.write()
        if number + 1 < len(kinds):
            with T.Else():
                _one_of(wanted, kinds, given, number + 1)


class _Phase:
    """The statements of a phase."""

    def __init__(
        self, kind: Kind, plan: Plan, words: Any, exchange: tuple[Any, Any, Any],
        shared: Sequence[Any],
    ) -> None:  # fmt: skip
        self.kind, self.plan, self.words, self.exchange = kind, plan, words, exchange
        self.activations, self.sums = shared
        self.block, self.thread = (
            hold(call(name, "int32")) for name in ("mmc_block", "mmc_thread")
        )
        self.first = T.Bind(T.cast(self.block, "int64") * kind.per_block)
        self.work = kind.work
        self.starts = {output: i * self.work.length for i, output in enumerate(self.work.outputs)}
        self.symbols = {ROWS: T.int64(1)}

    def write(self) -> None:
        """Compute the row, multiply, and hand on what follows."""
        epilogue = _Epilogue(self)
        row = self._row()
        do("mmc_sync_warps")
        self._multiply()
        do("mmc_sync_warps")
        epilogue.write(row)

    def word(self, name: str) -> Any:
        """An argument."""
        return self.words[HEAD + self.kind.arguments.index(name)]

    def place(self, name: str, value: Value) -> Place:
        """A value in memory."""
        dtype = STORED[value.type.dtype]
        address = T.reinterpret(pointer_type(dtype), self.word(name))
        return Place(pointer(address, dtype), value.type, self.symbols)

    def exchanged(self, name: str, value: Value) -> Exchanged:
        """A value in the exchange."""
        return Exchanged(self.exchange, self.word(name), value)

    def inputs(self, name: str, values: Sequence[Value], sources: Any) -> dict[Value, Any]:
        """The inputs that are read."""
        found: dict[Value, Any] = {}
        for i, (value, source) in enumerate(zip(values, sources, strict=True)):
            if f"{name}_{i}" in self.kind.arguments:
                make = self.place if source.kind == "memory" else self.exchanged
                found[value] = make(f"{name}_{i}", value)
        return found

    def gain(self, position: int, value: Value) -> Place:
        """A vector that was supplied with the weights."""
        start = self.words[1] + (self.kind.gain_start + position * 4 * self.kind.columns)
        buffer = pointer(call("mmc_gain", pointer_type("float32"), start), "float32")
        return Place(buffer, value.type, self.symbols)

    def _row(self) -> dict[int, Any]:
        """Compute the row; returns its outputs that are one number."""
        kind = self.kind
        places = self.inputs("in", kind.row.inputs, kind.sources)
        for position, i in enumerate(kind.gains):
            places[kind.row.inputs[i]] = self.gain(position, kind.row.inputs[i])
        places |= {v: self.exchanged(f"cut_{i}", v) for i, v in enumerate(kind.cut)}
        late = {v: x.row() for v, x in places.items() if isinstance(x, Exchanged)}
        elements = Elements(self.symbols, {**places, **late}, lanes=1)
        values = primitive_outputs(kind.row)
        stores: list[tuple[Value, Any]] = [
            (values[i], self._activations(values[i], i)) for i in self.starts
        ]
        stores += [
            (values[i], FirstBlock(values[i], self._targets(values[i], i), self.block))
            for i in sorted({*kind.stored, *kind.published})
        ]
        group = Block(T.cast(self.block, "int64"), T.cast(self.thread, "int64"), THREADS, False)
        numbers = {s.number for s in kind.after_sources if s.kind == "scalar"}
        scalars = {i: values[i] for i in sorted(numbers)}
        found = Row(elements, self.plan, stores, group, late).write((0,), list(scalars.values()))
        return dict(zip(scalars, found, strict=True))

    def _activations(self, value: Value, output: int) -> Activations:
        return Activations(value, self.activations, self.starts[output], self.work.length)

    def _targets(self, value: Value, output: int) -> list[Any]:
        found: list[Any] = []
        if output in self.kind.stored:
            found.append(self.place(f"out_{output}", value))
        if output in self.kind.published:
            found.append(self.exchanged(f"made_{output}", value))
        return found

    def _multiply(self) -> None:
        """Each warp adds up its columns of some tiles, and leaves 16 sums of each."""
        work, vectors = self.work, self.kind.consumers[0].matrix.vectors
        lane, warp = self.thread % _WARP, self.thread // _WARP
        packed, q = (T.alloc_buffer((4,), x, scope="local") for x in ("uint32", "int32"))
        weights = pointer(call("mmc_weights", pointer_type("uint32"), self.words[1]), "uint32")
        steps = -(-vectors // (8 * work.split))
        tiles, at_once = len(self.kind.parts) * self.kind.per_block, _WARPS // work.split
        part = warp % work.split
        for turn in range(work.rounds):
            place = T.Bind(turn * at_once + T.truncdiv(warp, work.split))
            tile = T.Bind(T.min(place, tiles - 1)) if (turn + 1) * at_once > tiles else place
            start = T.Bind(self._start(tile))
            sums = zeros(SUMS)
            for step in range(steps):
                vector = T.Bind((step * work.split + part) * 8 + lane // 4)
                past = (step + 1) * work.split * 8 > vectors
                held = T.min(vector, vectors - 1) if past else vector
                source = (tile * vectors + held) * TILE_ROWS + lane % 4 * 4
                do("mmc_load16", T.address_of(packed[0]), T.address_of(weights[source]))
                source = start + vector * TILE_ROWS
                do("mmc_load16", T.address_of(q[0]), T.address_of(self.activations[source]))
                multiply_in_place(packed, 0, q, sums)
            store_part(sums, self.sums, (place * work.split + part) * TILE_ROWS, lane)

    def _start(self, tile: Any) -> Any:
        """Where the activations of a tile begin; the tiles of a part follow each other."""
        kind, start = self.kind, None
        for i, matrix in enumerate(kind.parts):
            own = T.int32(self.starts[kind.consumers[matrix].output])
            start = own if start is None else T.Select(tile >= i * kind.per_block, own, start)
        return start


class _Epilogue:
    """What a thread does with the sums of a column; made before the row, to read ahead."""

    def __init__(self, phase: _Phase) -> None:
        self.phase, kind = phase, phase.kind
        inputs = phase.inputs("next", kind.after.inputs, kind.after_sources)
        self.places: dict[Value, Any] = {
            value: place for value, place in inputs.items() if isinstance(place, Place)
        }
        self.elements = Elements(phase.symbols, self.places, lanes=1)
        last = kind.epilogue.columns - 1
        self.column = T.Bind(phase.first * TILE_ROWS + T.cast(phase.thread, "int64"))
        self.index = Index((0, T.Bind(T.min(self.column, T.int64(last)))), 1, True)
        for value in self.places:
            self.elements.operand(value, self.index)
        self.late = {
            value: place.look(self.index.axes[-1])
            for value, place in inputs.items() if isinstance(place, Exchanged)
        }  # fmt: skip

    def write(self, scalars: Mapping[int, Any]) -> None:
        phase, kind = self.phase, self.phase.kind
        wanted = self.column < kind.epilogue.columns
        own = phase.thread < kind.per_block * TILE_ROWS
        with T.If(T.And(own, wanted)), T.Then(), self.elements.scope():
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
        phase, kind, work = self.phase, self.phase.kind, self.phase.work
        tile = T.truncdiv(phase.thread, TILE_ROWS) + part * kind.per_block
        first = T.Bind(tile * (work.split * TILE_ROWS) + phase.thread % TILE_ROWS)
        total = phase.sums[first]
        for i in range(1, work.split):
            total = total + phase.sums[first + i * TILE_ROWS]
        return hold(total)

    def _targets(self, position: int) -> list[Any]:
        phase, value = self.phase, self.phase.kind.epilogue.cut[position]
        found: list[Any] = []
        if f"cut_of_next_{position}" in phase.kind.arguments:
            found.append(phase.exchanged(f"cut_of_next_{position}", value))
        if position in phase.kind.kept:
            found.append(phase.place(f"kept_{position}", value))
        return found
