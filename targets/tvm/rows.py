# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Kernels on rows: any graph of pointwise operations, row reductions and recurrences as TIR.

A kernel's parameters are a pointer per input of the body, a pointer per output, and an int64 per
symbol of the body, sorted by name.  The layout of a value is drawn in `mmc.targets.tvm.memory`.

The outputs that share their leading axes are computed together, row by row (`stages`); rows are
spread over the threads once there is enough to do.  Outputs behind a recurrence are computed column
block by column block, step by step (`scan`).  Bound: memory, as long as rows are long.

A row's result does not depend on the number of rows or threads: each row runs the same
instructions, and a sum over a row is 4 x 16 running sums combined in a fixed order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value, producer
from mmc.ir.types import Shape, SymbolicDim
from mmc.targets.tvm import scan
from mmc.targets.tvm.coverage import unsupported
from mmc.targets.tvm.elementary import hold
from mmc.targets.tvm.expressions import Elements, Index, Kept, scratch_type
from mmc.targets.tvm.fold import LANES, Fold, finish, for_columns, lane_total, serial
from mmc.targets.tvm.host import Kernel, make_kernel
from mmc.targets.tvm.memory import (
    STORED,
    Place,
    as_expression,
    prefetch,
    size_of,
    unravel,
)  # fmt: skip
from mmc.targets.tvm.primitives import primitive_outputs
from mmc.targets.tvm.schedule import Nest, row_maximum_behind, schedule
from mmc.targets.tvm.stages import Plan, breaks_lanes, cone, is_row_scalar

UNROLL = 4
"""Vectors side by side in a reduction, so that additions need not wait for each other."""

PARALLEL_WORK = 16384
"""Elements below which starting the threads costs more than it saves."""


def emit(body: Graph, name: str) -> Kernel:
    """The kernel that computes the outputs of `body`.

    The TIR is the same for every instruction set: LLVM cuts 16 lanes into what there is.
    Raises MmcError where the body holds an operation that has no CPU kernel.
    """
    if refused := unsupported(body):
        op = refused[0]
        where = f" at {op.origin}" if op.origin else ""
        raise MmcError(
            f"no CPU kernel for `{op.mnemonic}`{where}", name, "`--target reference` runs it"
        )
    outputs = primitive_outputs(body)
    parameters = {f"in_{i}": f"{STORED[op.type.dtype]}*" for i, op in enumerate(body.inputs)}
    parameters |= {f"out_{i}": f"{STORED[v.type.dtype]}*" for i, v in enumerate(outputs)}
    parameters |= {f"size_{symbol}": "int64" for symbol in symbols_of(body)}
    return make_kernel(name, parameters, functools.partial(_write, body, outputs))


def symbols_of(body: Graph) -> tuple[str, ...]:
    """The symbols that the types of the body's inputs and outputs hold, sorted."""
    types = [value.type for value in (*body.inputs, *body.values)]
    dims = [dim for type_ in types for dim in type_.shape if isinstance(dim, SymbolicDim)]
    return tuple(sorted(set().union(*(dim.symbols for dim in dims))))


def _write(body: Graph, outputs: tuple[Value, ...], *arguments: Any) -> None:
    """The kernel's statements."""
    split = len(body.inputs), len(body.inputs) + len(outputs)
    symbols = dict(zip(symbols_of(body), arguments[split[1] :], strict=True))
    places: dict[Value, Place] = {}
    for op, buffer in zip(body.inputs, arguments[: split[0]], strict=True):
        places[op] = Place(buffer, op.type, symbols)
    targets = [
        (value, Place(buffer, value.type, symbols))
        for value, buffer in zip(outputs, arguments[split[0] : split[1]], strict=True)
    ]
    for nest in schedule(outputs, set(places)):
        elements = Elements(symbols, places)
        if nest.total is not None:
            places = places | {nest.total: _whole_maximum(elements, nest)}
            continue
        stores = [targets[i] for i in nest.outputs]
        if nest.recurrences:
            scan.write(elements, nest, stores, PARALLEL_WORK)
        else:
            RowNest(elements, nest.lead, stores).write()
        places = {**dict(stores), **places}


def _whole_maximum(elements: Elements, nest: Nest) -> Place:
    """The maximum over a whole tensor, row by row on one thread."""
    assert nest.total is not None
    row_maximum = row_maximum_behind(nest.total)
    total = T.alloc_buffer((1,), "float32")
    T.buffer_store(total, T.float32(0), [0])  # of magnitudes
    RowNest(elements, nest.lead, [(row_maximum, _Running(total))], threads=False).write()
    return Place(total, nest.total.type, elements.symbols)


@dataclass
class _Running:
    """A place that keeps the largest of what is stored to it."""

    buffer: Any

    def store(self, axes: Sequence[Any], value: Any) -> None:
        T.buffer_store(self.buffer, T.max(self.buffer[0], value), [0])

    def fill_pad(self, lead: Sequence[Any]) -> None:
        """There is none."""


class RowNest:
    """The loop over the rows of outputs that share their leading axes."""

    def __init__(
        self, elements: Elements, lead: Shape, stores: Sequence[tuple[Value, Any]], *,
        threads: bool = True,
    ) -> None:  # fmt: skip
        self.elements, self.lead = elements, elements.sizes(lead)
        self.stores, self.threads = stores, threads
        self.plan = Plan(set(elements.places), [value for value, _ in dict(stores).items()])
        places = elements.places.values() if self.plan.stages > 1 else ()
        self._read_again = [place for place in places if place.type.shape[:-1] == lead]
        self.ahead: list[Place] = []
        """Inputs whose next row the last stage of a row asks memory for, as it computes most."""

    def write(self) -> None:
        rows = prod(self.lead)
        if not self.threads or (isinstance(rows, int) and rows == 1):
            self._rows(0, rows)
            return
        few = max(1, PARALLEL_WORK // self._work())
        chunk = max(1, few // 4)
        with T.If(as_expression(rows) <= few):
            with T.Then():
                self._rows(0, rows)
            self.ahead = self._read_again
            with T.Else(), T.parallel(T.int64(0), T.ceildiv(as_expression(rows), chunk)) as task:
                first = T.Bind(task * chunk)
                self._rows(first, T.Bind(T.min(first + chunk, as_expression(rows))))

    def _work(self) -> int:
        """Elements per row, as far as they are known."""
        widths = [v.type.shape[-1] for v in self.plan.levels if v.type.shape]
        return max((w for w in widths if isinstance(w, int)), default=1)

    def _rows(self, first: Any, last: Any) -> None:
        e, plan = self.elements, self.plan
        e.kept = {value: Kept(self._scratch(value), stage) for value, stage in plan.kept.items()}
        places = dict(self.stores)
        e.kept |= {value: Kept(places[value], stage) for value, stage in plan.read_back.items()}
        with T.serial(as_expression(first), as_expression(last)) as row, e.scope():
            self._row(unravel(row, self.lead))

    def _scratch(self, value: Value) -> Place:
        (columns,) = value.type.shape[-1:]
        buffer = T.alloc_buffer((columns,), STORED[value.type.dtype])
        return Place(buffer, scratch_type(value), self.elements.symbols)

    def _row(self, lead: tuple[Any, ...]) -> None:
        e, plan = self.elements, self.plan
        e.reduced = {}
        for stage in range(plan.stages):
            e.stage = stage
            scalars = plan.scalars_before(stage)
            for value in scalars:
                e.operand(value, Index((*lead, 0), 1, True))
            widths: dict[Any, list[Value]] = {}
            for value in plan.values_of(stage):
                columns = value.type.shape[-1] if value.type.shape else 1
                widths.setdefault(columns, []).append(value)
            for columns, values in widths.items():
                size = size_of(columns, e.symbols)
                _Columns(self, lead, stage, size, values).write()


class _Columns:
    """One run over the columns of a row: computes `values`, stores, keeps and reduces them."""

    def __init__(
        self, nest: RowNest, lead: tuple[Any, ...], stage: int, size: Any, values: list[Value]
    ) -> None:
        self.nest, self.lead, self.size, self.values = nest, lead, size, values
        self.elements = nest.elements
        plan = nest.plan
        last = stage == plan.stages - 1
        self.ahead = [place for place in nest.ahead if last and place.columns == size]
        self.stores = [(v, p) for v, p in nest.stores if v in values and plan.levels[v] == stage]
        kept = {v: k.place for v, k in self.elements.kept.items() if v in plan.kept}
        self.keeps = [(v, p) for v, p in kept.items() if v in values and plan.kept[v] == stage]
        self.reductions = [op for op in plan.reductions_in(stage) if op.operands[0] in values]
        stored = {*plan.stored, *plan.kept, *plan.read_back}
        self.by_lane = not any(
            breaks_lanes(producer(v)) for v in cone(values, stored) if v not in plan.stored
        ) and not any(breaks_lanes(op) for op in self.reductions)
        self.unroll = UNROLL if self.reductions and isinstance(size, int) else 1

    def write(self) -> None:
        wide = self.by_lane and not (isinstance(self.size, int) and self.size < LANES)
        vectors = self.size // LANES if isinstance(self.size, int) else 1
        slots = min(self.unroll, vectors) if wide else 0
        folds = [[Fold(op, LANES) for op in self.reductions] for _ in range(slots)]
        rest = [Fold(op, 1) for op in self.reductions]
        if wide:
            self._vectors(folds)
            start = self.size // LANES * LANES if isinstance(self.size, int) else (
                T.floordiv(self.size, LANES) * LANES)  # fmt: skip
        else:
            start = 0
        left = self.size - start
        if isinstance(left, int) and left == 1:
            self._at(start, 1, rest)
        elif not (isinstance(left, int) and left == 0):
            with serial(left) as column:
                self._at(T.Bind(column + start), 1, rest)
        for _, place in self.stores:
            place.fill_pad(self.lead)
        self._finish(folds, rest)

    def _vectors(self, folds: list[list[Fold]]) -> None:
        if not isinstance(self.size, int):
            none = folds[0] if folds else []
            for_columns(
                T.floordiv(self.size, LANES) * LANES,
                lambda column: self._at(column, LANES, none), lambda column: None,
            )  # fmt: skip
            return
        vectors = self.size // LANES
        slots = max(1, len(folds))
        with serial(vectors // slots) as block:
            for slot in range(slots):
                column = T.Bind(block * (slots * LANES) + slot * LANES)
                self._at(column, LANES, folds[slot] if folds else [])
        for slot in range(vectors % slots):
            column = (vectors // slots * slots + slot) * LANES
            self._at(column, LANES, folds[slot])

    def _at(self, column: Any, lanes: int, folds: Sequence[Fold]) -> None:
        e = self.elements
        index = Index((*self.lead, column), lanes, True)
        with e.scope():
            made = {value: e.operand(value, index) for value in self.values}
            for value, place in self.stores:
                place.store(self._axes(value, index), made[value])
            for value, place in self.keeps:
                place.store((column,), made[value])
            for fold in folds:
                fold.add(made[fold.op.operands[0]], column)
        for place in self.ahead if lanes == LANES else ():
            prefetch(place.buffer, place.offset((*self.lead[:-1], self.lead[-1] + 1, column)), 1)

    def _axes(self, value: Value, index: Index) -> tuple[Any, ...]:
        rank = value.type.rank
        axes = index.axes[len(index.axes) - rank :]
        return (*axes[:-1], 0) if axes and is_row_scalar(value) else axes

    def _finish(self, folds: list[list[Fold]], rest: list[Fold]) -> None:
        """Combine the running results: slots pairwise, lanes by halves, then the last columns."""
        for i, op in enumerate(self.reductions):
            last = rest[i]
            if not self.by_lane or not folds:
                self.elements.reduced[op] = last.result(self.size)
                continue
            totals = [slot[i].total[0] for slot in folds]
            while len(totals) > 1:
                paired = [
                    last.combine(a, b) for a, b in zip(totals[::2], totals[1::2], strict=False)
                ]
                totals = paired + totals[len(paired) * 2 :]
            total = last.combine(lane_total(hold(totals[0]), last.combine), last.total[0])
            self.elements.reduced[op] = finish(op, total, self.size)


__all__ = ["Op", "emit", "symbols_of", "unsupported"]
