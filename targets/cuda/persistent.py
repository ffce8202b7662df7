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
from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Value
from mmc.ir.packing import TILE_ROWS
from mmc.targets.cuda.block import Block
from mmc.targets.cuda.code import DeviceKernel, call, do, make_kernel
from mmc.targets.cuda.columns import Columns
from mmc.targets.cuda.exchange import (
    Activations,
    Exchanged,
    FirstBlock,
    pointer,
    pointer_type,
)
from mmc.targets.cuda.phases import (
    HEAD,
    SUPPLY_BYTES,
    Kind,
    Phases,
    is_columnwise,
    row_plan,
)
from mmc.targets.cuda.row import Row
from mmc.targets.cuda.work import BLOCKS, THREADS
from mmc.targets.tvm.elementary import hold
from mmc.targets.tvm.expressions import Elements
from mmc.targets.tvm.memory import STORED, Place
from mmc.targets.tvm.primitives import primitive_outputs
from mmc.targets.tvm.rowwise import ROWS
from mmc.targets.tvm.stages import Plan

_WARP = 32

PARAMETERS = {"table": "int64*", "exchange": "float32*", "finished": "uint64*", "phases": "int64",
              "under_way": "int32"}  # fmt: skip


def emit(phases: Phases, name: str) -> DeviceKernel | None:
    """The kernel of the phases; None where a row's program needs what it has not."""
    plans = [row_plan(kind) for kind in phases.kinds]
    if not all(map(is_columnwise, phases.kinds, plans)):
        return None
    if max(kind.chunk_bytes for kind in phases.kinds) > phases.ring_bytes:
        return None
    write = functools.partial(_write, phases, plans)
    shared = SUPPLY_BYTES + phases.ring_bytes
    return make_kernel(name, PARAMETERS, THREADS + _WARP, write, shared=shared)


def _write(
    phases: Phases, plans: Sequence[Plan], block: Any, thread: Any,
    table: Any, exchange: Any, finished: Any, count: Any, under_way: Any,
) -> None:  # fmt: skip
    area = hold(call("mmc_area", "int32", T.address_of(finished[0])))
    do("mmc_begin_phases")
    with T.If(thread >= THREADS):
        with T.Then():
            row = T.address_of(exchange[T.cast(area, "int64") * phases.floats])
            given = T.address_of(table[0]), count, phases.ring_bytes, under_way
            do(f"mmc_supply<{BLOCKS}>", *given, row, phases.floats)
        with T.Else():
            dtypes = "int8", "int32"
            shared = [
                T.alloc_buffer((size,), dtype, scope="shared")
                for size, dtype in zip(phases.shared, dtypes, strict=True)
            ]
            chunk = T.alloc_buffer((1,), "int32", scope="local")
            T.buffer_store(chunk, T.int32(0), [0])
            areas = [T.Bind(T.cast(x, "int64") * phases.floats) for x in (area, 1 - area)]
            with T.serial(T.int64(0), count) as number:
                words = pointer(call("mmc_begin_phase", pointer_type("int64"), number), "int64")
                given = words, (exchange, *areas), shared, chunk, number
                _one_of(hold(words[0] + 0), list(zip(phases.kinds, plans, strict=True)), given)
                do("mmc_end_phase", number)
    do("mmc_end_phases", T.address_of(finished[0]))


def _one_of(wanted: Any, kinds: Sequence[tuple[Kind, Plan]], given: Any, number: int = 0) -> None:
    """The phase of the kind that is wanted, unless the block has no tile of it."""
    kind, plan = kinds[number]
    with T.If(T.EQ(wanted, T.int64(number))):
        with T.Then():
            phase = _Phase(kind, plan, *given)
            with T.If(phase.count > 0), T.Then():
                phase.write()
        if number + 1 < len(kinds):
            with T.Else():
                _one_of(wanted, kinds, given, number + 1)


class _Phase:
    """The statements of a phase."""

    def __init__(
        self, kind: Kind, plan: Plan, words: Any, exchange: tuple[Any, Any, Any],
        shared: Sequence[Any], chunk: Any, number: Any,
    ) -> None:  # fmt: skip
        self.kind, self.plan, self.words, self.exchange = kind, plan, words, exchange
        self.activations, self.sums = shared
        self.chunk = chunk
        self.seen = T.alloc_buffer((1,), "int32", scope="local")
        self.block = hold(call(f"mmc_block<{BLOCKS}>", "int32", number))
        self.thread = hold(call("mmc_thread", "int32"))
        self.first, after = (
            hold(call(f"mmc_first_tile<{BLOCKS}>", "int32", self.block + i, kind.tiles))
            for i in (0, 1)
        )
        self.count = T.Bind(after - self.first)
        self.symbols = {ROWS: T.int64(1)}

    def write(self) -> None:
        """Compute the row, multiply, and hand on what follows."""
        columns = self.kind.per_block * TILE_ROWS
        epilogues = [Columns(self, start) for start in range(0, columns, THREADS)]
        row = self._row()
        self._multiply()
        do("mmc_sync_warps")
        for epilogue in epilogues:
            epilogue.write(row)

    def next_chunk(self) -> tuple[Any, Any]:
        """The number of the next chunk, and where in the ring it lies, once it is there."""
        number = hold(self.chunk[0] + 0)
        T.buffer_store(self.chunk, number + 1, [0])
        return number, hold(call("mmc_begin_chunk", "int32", number))

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

    def gains(self, start: Any) -> dict[Value, Any]:
        """The vectors of a chunk."""
        found: dict[Value, Any] = {}
        for position, i in enumerate(self.kind.gains):
            at = start + position * 4 * self.kind.columns
            buffer = pointer(call("mmc_gain", pointer_type("float32"), at), "float32")
            found[self.kind.row.inputs[i]] = Place(
                buffer, self.kind.row.inputs[i].type, self.symbols
            )
        return found

    def _row(self) -> dict[int, Any]:
        """Compute the row; returns its outputs that are one number."""
        kind = self.kind
        places = self.inputs("in", kind.row.inputs, kind.sources)
        number = None
        if kind.gains:
            number, start = self.next_chunk()
            places |= self.gains(start)
        places |= {v: self.exchanged(f"cut_{i}", v) for i, v in enumerate(kind.cut)}
        late = {v: x.row() for v, x in places.items() if isinstance(x, Exchanged)}
        elements = Elements(self.symbols, {**places, **late}, lanes=1)
        values = primitive_outputs(kind.row)
        stores: list[tuple[Value, Any]] = [
            (values[i], self._activations(values[i], i)) for i in kind.starts
        ]
        stores += [
            (values[i], FirstBlock(values[i], self._targets(values[i], i), self.block))
            for i in sorted({*kind.stored, *kind.published})
        ]
        group = Block(T.cast(self.block, "int64"), T.cast(self.thread, "int64"), THREADS, False)
        numbers = {s.number for s in kind.after_sources if s.kind == "scalar"}
        scalars = {i: values[i] for i in sorted(numbers)}
        row = Row(elements, self.plan, stores, group, late, self._look_for_weights)
        found = row.write((0,), list(scalars.values()))
        if number is not None:
            do("mmc_end_chunk", number)
        return dict(zip(scalars, found, strict=True))

    def _look_for_weights(self) -> None:
        """Where the first weights lie, if they are there: asked while other blocks make the row."""
        T.buffer_store(self.seen, call("mmc_try_chunk", "int32", self.chunk[0]), [0])

    def _activations(self, value: Value, output: int) -> Activations:
        return Activations(value, self.activations, self.kind.starts[output], self.kind.row_bytes)

    def _targets(self, value: Value, output: int) -> list[Any]:
        found: list[Any] = []
        if output in self.kind.stored:
            found.append(self.place(f"out_{output}", value))
        if output in self.kind.published:
            found.append(self.exchanged(f"made_{output}", value))
        return found

    def _multiply(self) -> None:
        """Warps share the columns of each tile, and leave 16 sums of it each."""
        kind, matrix = self.kind, self.kind.consumers[0].matrix
        starts = [kind.starts[kind.consumers[part].output] for part in kind.parts]
        shape = matrix.words, matrix.vectors, kind.split
        sizes = *shape, kind.chunk_tiles, kind.per_block, *starts
        buffers = [T.address_of(b[0]) for b in (self.chunk, self.activations, self.sums)]
        given = ", ".join(map(str, sizes))
        do(f"mmc_multiply<{given}>", *buffers, self.seen[0], self.count)
