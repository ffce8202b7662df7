# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Kernels on rows: what `mmc.targets.tvm.rows` is for a CPU, for blocks of threads.

Each nest of a body (`mmc.targets.tvm.schedule`) is a launch of its own, because what one nest
writes the next may read.  There are three kinds:

    elements      one thread for each element: nothing is reduced
    rows          one block for each row: the threads share its columns, and agree on reductions
    recurrences   one thread for each column of a sequence, step by step

A row's result does not depend on how many rows there are: the number of threads, and with it the
order of every sum, depends on the columns alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.graph import Graph
from mmc.ir.op import Value, producer
from mmc.ir.ops.reduce import ArgMax, Max
from mmc.ir.types import Dim, DType, numel
from mmc.targets.cuda.code import DeviceKernel, call, make_kernel
from mmc.targets.tvm import elementary
from mmc.targets.tvm.elementary import hold
from mmc.targets.tvm.expressions import Elements, Index, Kept, scratch_type
from mmc.targets.tvm.fold import Fold, finish, serial
from mmc.targets.tvm.memory import (
    STORED,
    Place,
    as_expression,
    row_stride,
    size_of,
    unravel,
)  # fmt: skip
from mmc.targets.tvm.primitives import primitive_outputs
from mmc.targets.tvm.rows import symbols_of
from mmc.targets.tvm.scan import Scan
from mmc.targets.tvm.schedule import Nest, row_maximum_behind, schedule
from mmc.targets.tvm.stages import Plan, is_row_scalar

ELEMENT_THREADS = 256
SCAN_THREADS = 64
COLUMNS_PER_THREAD = 4
RECOMPUTE = 1 << 30
"""The cost up to which a stage computes again what an earlier one had: everything."""


@dataclass(frozen=True)
class Launch:
    """A kernel and its work: a block for each `per` of `work` items."""

    kernel: DeviceKernel
    work: Dim
    per: int = 1


def emit(body: Graph, name: str) -> list[Launch]:
    """The launches that compute the outputs of `body`, in order."""
    outputs = primitive_outputs(body)
    nests = schedule(outputs, set(body.inputs))
    totals = [nest for nest in nests if nest.total is not None]
    launches: list[Launch] = []
    for nest in (n for n in nests if n.total is None):
        label = name if len(nests) == 1 else f"{name}_{len(launches)}"
        launches.append(_launch(body, outputs, totals, nest, label))
    return launches


def _launch(
    body: Graph, outputs: tuple[Value, ...], totals: Sequence[Nest], nest: Nest, name: str
) -> Launch:
    stores = [outputs[i] for i in nest.outputs]
    made_before = {v for i, v in enumerate(outputs) if i not in nest.outputs}
    plan = Plan({*body.inputs, *made_before, *(n.total for n in totals if n.total)}, stores, RECOMPUTE)
    threads, work, per = _geometry(nest, plan, stores)
    parameters = {f"in_{i}": f"{STORED[op.type.dtype]}*" for i, op in enumerate(body.inputs)}
    parameters |= {f"out_{i}": f"{STORED[v.type.dtype]}*" for i, v in enumerate(outputs)}
    parameters |= {f"size_{symbol}": "int64" for symbol in symbols_of(body)}
    write = functools.partial(_write, body, outputs, totals, nest, plan, threads)
    return Launch(make_kernel(name, parameters, threads, write), work, per)


def _geometry(nest: Nest, plan: Plan, stores: Sequence[Value]) -> tuple[int, Dim, int]:
    """Threads of a block, items of work, and how many a block takes."""
    if nest.recurrences:
        axis = nest.recurrences[0].attributes["axis"] % len(nest.lead)
        return SCAN_THREADS, numel(d for i, d in enumerate(nest.lead) if i != axis), SCAN_THREADS
    if _is_flat(plan, stores):
        return ELEMENT_THREADS, numel((*nest.lead, _stride(stores[0]))), ELEMENT_THREADS
    widths = [v.type.shape[-1] for v in plan.levels if v.type.shape]
    widest = max((w for w in widths if isinstance(w, int)), default=1024)
    return _threads(widest), numel(nest.lead), 1


def _threads(columns: int) -> int:
    """A power of two from a warp to the largest block."""
    wanted = max(32, min(1024, -(-columns // COLUMNS_PER_THREAD)))
    return 1 << (wanted - 1).bit_length()


def _is_flat(plan: Plan, stores: Sequence[Value]) -> bool:
    same = len({v.type.shape[-1:] for v in stores}) == 1
    kinds = {v.type.dtype is DType.I8 for v in stores}
    return plan.stages == 1 and same and len(kinds) == 1


def _stride(value: Value) -> Dim:
    columns = value.type.shape[-1] if value.type.shape else 1
    return row_stride(value.type.dtype, columns) if isinstance(columns, int) else columns


def _write(
    body: Graph, outputs: tuple[Value, ...], totals: Sequence[Nest], nest: Nest, plan: Plan,
    threads: int, block: Any, thread: Any, *arguments: Any,
) -> None:  # fmt: skip
    """The statements of the kernel of a nest."""
    split = len(body.inputs), len(body.inputs) + len(outputs)
    symbols = dict(zip(symbols_of(body), arguments[split[1] :], strict=True))
    values = (*body.inputs, *outputs)
    places = {
        value: Place(buffer, value.type, symbols)
        for value, buffer in zip(values, arguments[: split[1]], strict=True)
    }
    stores = [(outputs[i], places[outputs[i]]) for i in nest.outputs]
    own = {value for value, _ in stores if value not in body.inputs}
    elements = Elements(symbols, {v: p for v, p in places.items() if v not in own}, lanes=1)
    group = Block(T.cast(block, "int64"), T.cast(thread, "int64"), threads)
    for total in totals:
        elements.places[total.total] = _whole_maximum(elements, total, group)
    if nest.recurrences:
        _recurrences(elements, nest, stores, group)
    elif _is_flat(plan, [value for value, _ in stores]):
        _elements(elements, nest, stores, group)
    else:
        _Row(elements, plan, stores, group).write(elements.sizes(nest.lead))


@dataclass(frozen=True)
class Block:
    """Where a thread stands: the numbers of its block and within it, as int64, and their count."""

    index: Any
    thread: Any
    threads: int

    @property
    def item(self) -> Any:
        """The thread among all."""
        return self.index * self.threads + self.thread

    def columns(self, size: Any) -> Any:
        """The loop over a thread's share of columns, and the column at each step."""
        return serial(T.ceildiv(as_expression(size), self.threads))

    def column(self, step: Any) -> Any:
        return T.Bind(step * self.threads + self.thread)


def _recurrences(
    elements: Elements, nest: Nest, stores: Sequence[tuple[Value, Place]], group: Block
) -> None:
    scan = Scan(elements, nest, stores)
    sizes = [*(scan.sizes[i] for i in scan.outer), scan.columns]
    with T.If(group.item < _product(sizes)), T.Then():
        *outer, column = unravel(group.item, sizes)
        scan.task(outer, column, 1, 1)


def _elements(
    e: Elements, nest: Nest, stores: Sequence[tuple[Value, Place]], group: Block
) -> None:
    place = stores[0][1]
    sizes = [*e.sizes(nest.lead), place.stride]
    with T.If(group.item < _product(sizes)), T.Then():
        axes = unravel(group.item, sizes)
        inside = as_expression(axes[-1]) < as_expression(place.columns)
        with T.If(inside), T.Then(), e.scope():
            made = [e.operand(value, Index(axes, 1, True)) for value, _ in stores]
            for (value, place), element in zip(stores, made, strict=True):
                place.store(_axes_of(value, axes), element)
        if place.type.dtype is DType.I8:
            with T.If(T.Not(inside)), T.Then():
                for _, place in stores:
                    T.buffer_store(place.buffer, T.int8(0), [place.offset(axes)])


def _axes_of(value: Value, axes: Sequence[Any]) -> tuple[Any, ...]:
    found = tuple(axes[len(axes) - value.type.rank :])
    return (*found[:-1], 0) if found and is_row_scalar(value) else found


def _product(sizes: Sequence[Any]) -> Any:
    total: Any = T.int64(1)
    for size in sizes:
        total = total * size
    return total


def _whole_maximum(e: Elements, nest: Nest, group: Block) -> Place:
    """The maximum over a whole tensor; every block computes it again."""
    assert nest.total is not None
    op = producer(row_maximum_behind(nest.total))
    fold = Fold(op, 1)
    lead = e.sizes(nest.lead)
    with serial(_product(lead)) as row, e.scope():
        _fold_columns(e, group, unravel(row, lead), [fold])
    total = T.alloc_buffer((1,), "float32", scope="local")
    T.buffer_store(total, _agreed(fold, e.size(op.operands[0], -1)), [0])
    return Place(total, nest.total.type, e.symbols)


def _fold_columns(e: Elements, group: Block, lead: Sequence[Any], folds: Sequence[Fold]) -> None:
    x = folds[0].op.operands[0]
    size = e.size(x, -1)
    with group.columns(size) as step:
        column = group.column(step)
        with T.If(column < as_expression(size)), T.Then(), e.scope():
            made = e.operand(x, Index((*lead, column), 1, True))
            for fold in folds:
                fold.add(made, column)


def _agreed(fold: Fold, size: Any) -> Any:
    """The reduction's result from every thread's part."""
    total = fold.total[0]
    dtype = fold.dtype
    if isinstance(fold.op, ArgMax):
        found = call("mmc::block_first_largest", "int64", total, fold.where[0], fold.first)
        return hold(found)
    wide = dtype if dtype in ("float32", "int32", "int64") else "int32"
    kind = "Largest" if isinstance(fold.op, Max) or fold.op.operands[0].type.dtype is DType.BOOL else "Sum"
    arguments = (elementary.convert(x, wide) for x in (total, fold.first))
    combined = hold(call(f"mmc::block_combine<mmc::{kind}>", wide, *arguments))
    return finish(fold.op, elementary.convert(combined, dtype), size)


class _Row:
    """A row, stage by stage (`mmc.targets.tvm.stages`)."""

    def __init__(
        self, elements: Elements, plan: Plan, stores: Sequence[tuple[Value, Place]], group: Block
    ) -> None:
        self.elements, self.plan, self.stores, self.group = elements, plan, stores, group

    def write(self, lead_sizes: Sequence[Any]) -> None:
        e, plan = self.elements, self.plan
        e.kept = {value: Kept(self._scratch(value), stage) for value, stage in plan.kept.items()}
        places = dict(self.stores)
        e.kept |= {value: Kept(places[value], stage) for value, stage in plan.read_back.items()}
        lead = unravel(self.group.index, lead_sizes)
        with e.scope():
            for stage in range(plan.stages):
                if stage:
                    T.evaluate(T.cuda.cta_sync())
                self._stage(stage, lead)

    def _scratch(self, value: Value) -> Place:
        (columns,) = value.type.shape[-1:]
        buffer = T.alloc_buffer((columns,), STORED[value.type.dtype], scope="shared")
        return Place(buffer, scratch_type(value), self.elements.symbols)

    def _stage(self, stage: int, lead: tuple[Any, ...]) -> None:
        e, plan = self.elements, self.plan
        e.stage = stage
        for value in plan.scalars_before(stage):
            e.operand(value, Index((*lead, 0), 1, True))
        widths: dict[Any, list[Value]] = {}
        for value in plan.values_of(stage):
            widths.setdefault(value.type.shape[-1] if value.type.shape else 1, []).append(value)
        for columns, values in widths.items():
            self._columns(stage, lead, size_of(columns, e.symbols), values)

    def _columns(
        self, stage: int, lead: tuple[Any, ...], size: Any, values: Sequence[Value]
    ) -> None:
        """Compute `values`, store, keep and reduce them."""
        e, plan, group = self.elements, self.plan, self.group
        stores = [(v, p) for v, p in self.stores if v in values and plan.levels[v] == stage]
        keeps = [(v, e.kept[v].place) for v, s in plan.kept.items() if v in values and s == stage]
        folds = [Fold(op, 1) for op in plan.reductions_in(stage) if op.operands[0] in values]
        with group.columns(size) as step:
            column = group.column(step)
            with T.If(column < as_expression(size)), T.Then(), e.scope():
                axes = (*lead, column)
                made = {value: e.operand(value, Index(axes, 1, True)) for value in values}
                for value, place in stores:
                    place.store(_axes_of(value, axes), made[value])
                for value, place in keeps:
                    place.store((column,), made[value])
                for fold in folds:
                    fold.add(made[fold.op.operands[0]], column)
        for _, place in stores:
            if place.type.dtype is DType.I8:
                self._fill_pad(place, lead)
        for fold in folds:
            e.reduced[fold.op] = _agreed(fold, size)

    def _fill_pad(self, place: Place, lead: tuple[Any, ...]) -> None:
        group = self.group
        pad = place.stride - place.columns
        with group.columns(pad) as step:
            column = group.column(step)
            with T.If(column < as_expression(pad)), T.Then():
                where = place.offset((*lead, column + place.columns))
                T.buffer_store(place.buffer, T.int8(0), [where])

