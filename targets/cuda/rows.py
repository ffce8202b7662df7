# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""Kernels on rows: what `mmc.targets.tvm.rows` is for a CPU, for blocks of threads.

Each nest of a body (`mmc.targets.tvm.schedule`) is a launch of its own, because what one nest
writes the next may read.  There are three kinds:

    elements      one thread for each element: nothing is reduced
    rows          one block for each row: the threads share its columns, and agree on reductions
                  (`mmc.targets.cuda.block`)
    recurrences   one thread for each column of a sequence, step by step

A row's result does not depend on how many rows there are: the order of every sum is the same.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.graph import Graph
from mmc.ir.op import Value
from mmc.ir.types import Dim, DType, numel
from mmc.targets.cuda import scan
from mmc.targets.cuda.block import SHARES, Block
from mmc.targets.cuda.code import DeviceKernel, make_kernel
from mmc.targets.cuda.row import Row, axes_of, product, whole_maximum
from mmc.targets.tvm.expressions import Elements, Index
from mmc.targets.tvm.memory import (
    STORED,
    Place,
    as_expression,
    row_stride,
    unravel,
)  # fmt: skip
from mmc.targets.tvm.primitives import primitive_outputs
from mmc.targets.tvm.rows import symbols_of
from mmc.targets.tvm.scan import Scan
from mmc.targets.tvm.schedule import Nest, row_maximum_behind, schedule
from mmc.targets.tvm.stages import Plan

ELEMENT_THREADS = 256
SCAN_THREADS = 64
LONG_ROW, LONG_ROW_THREADS = 2048, 1024
"""Columns from which on a row takes more threads: each would have many columns one by one."""

A_FEW = 64
"""Rows up to which it does: more rows keep every processor busy as it is."""


@dataclass(frozen=True)
class RowLaunch:
    """A kernel and its work: a block for each `per` of `work` items."""

    kernel: DeviceKernel
    work: Dim
    per: int = 1


def emit(body: Graph, name: str, few: bool) -> list[RowLaunch]:
    """The launches that compute the outputs of `body`, in order; for a few rows or for any."""
    outputs = primitive_outputs(body)
    nests = schedule(outputs, set(body.inputs))
    totals = [nest for nest in nests if nest.total is not None]
    launches: list[RowLaunch] = []
    for nest in (n for n in nests if n.total is None):
        label = name if len(nests) == 1 else f"{name}_{len(launches)}"
        launches.append(_launch(body, outputs, totals, nest, label, few))
    return launches


def unreachable(body: Graph) -> list[Value]:
    """Maxima over whole tensors that need another reduction first."""
    outputs = primitive_outputs(body)
    stored = set(body.inputs)
    totals = (nest.total for nest in schedule(outputs, stored) if nest.total is not None)
    return [
        total for total in totals
        if Plan(stored, [row_maximum_behind(total)]).stages > 2
    ]  # fmt: skip


def parameters_of(body: Graph, outputs: Sequence[Value]) -> dict[str, str]:
    """A pointer for each input and output, and the sizes."""
    parameters = {f"in_{i}": f"{STORED[op.type.dtype]}*" for i, op in enumerate(body.inputs)}
    parameters |= {f"out_{i}": f"{STORED[v.type.dtype]}*" for i, v in enumerate(outputs)}
    return parameters | {f"size_{symbol}": "int64" for symbol in symbols_of(body)}


def places_of(
    body: Graph, outputs: Sequence[Value], arguments: Sequence[Any]
) -> tuple[dict[Value, Place], list[Place], Mapping[str, Any]]:
    """Where the inputs lie, and the outputs, and the sizes: from the kernel's arguments."""
    split = len(body.inputs), len(body.inputs) + len(outputs)
    symbols = dict(zip(symbols_of(body), arguments[split[1] :], strict=True))
    inputs = {
        op: Place(buffer, op.type, symbols)
        for op, buffer in zip(body.inputs, arguments[: split[0]], strict=True)
    }
    made = [
        Place(buffer, value.type, symbols)
        for value, buffer in zip(outputs, arguments[split[0] : split[1]], strict=True)
    ]
    return {**inputs}, made, symbols


def _launch(
    body: Graph, outputs: tuple[Value, ...], totals: Sequence[Nest], nest: Nest, name: str,
    few: bool,
) -> RowLaunch:  # fmt: skip
    plan = _plan(body, outputs, totals, nest)
    threads, work, per = _geometry(nest, plan, few)
    write = functools.partial(_write, body, outputs, totals, nest, plan, threads)
    resident = 2 if threads == scan.THREADS else None
    kernel = make_kernel(name, parameters_of(body, outputs), threads, write, resident=resident)
    return RowLaunch(kernel, work, per)


def _plan(body: Graph, outputs: Sequence[Value], totals: Sequence[Nest], nest: Nest) -> Plan:
    """The stages of a nest; `totals`: those that make maxima of whole tensors, among others."""
    stores = [outputs[i] for i in nest.outputs]
    made_before = {v for v in outputs if v not in stores}
    stored = {*body.inputs, *made_before, *(n.total for n in totals if n.total is not None)}
    return Plan(stored, stores, cheap=0)


def _geometry(nest: Nest, plan: Plan, few: bool) -> tuple[int, Dim, int]:
    """Threads of a block, items of work, and how many a block takes."""
    if scan.is_chunked(nest):
        axis, columns = nest.recurrences[0].attributes["axis"], nest.lead[-1]
        if isinstance(columns, int):
            others = tuple(d for i, d in enumerate(nest.lead[:-1]) if i != axis)
            return scan.THREADS, numel((*others, -(-columns // scan.COLUMNS))), 1
    if nest.recurrences:
        axis = nest.recurrences[0].attributes["axis"] % len(nest.lead)
        others = tuple(d for i, d in enumerate(nest.lead) if i != axis)
        return SCAN_THREADS, numel(others), SCAN_THREADS
    if _is_flat(plan, plan.outputs):
        return ELEMENT_THREADS, numel((*nest.lead, _stride(plan.outputs[0]))), ELEMENT_THREADS
    return LONG_ROW_THREADS if few and _is_long(nest, plan) else SHARES, numel(nest.lead), 1


def has_long_rows(body: Graph) -> bool:
    """Whether more threads may share a row of the body."""
    outputs = primitive_outputs(body)
    nests = schedule(outputs, set(body.inputs))
    made = [nest for nest in nests if nest.total is None]
    return any(_is_long(nest, _plan(body, outputs, nests, nest)) for nest in made)


def _is_long(nest: Nest, plan: Plan) -> bool:
    """Whether a row is reduced and long; one of unknown length has sums in one part."""
    if nest.recurrences or _is_flat(plan, plan.outputs):
        return False
    computed = [v for stage in range(plan.stages) for v in plan.values_of(stage) if v.type.shape]
    widths = [v.type.shape[-1] for v in computed]
    sizes = [width for width in widths if isinstance(width, int)]
    return len(sizes) == len(widths) and max(sizes, default=0) >= LONG_ROW


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
    places, made, symbols = places_of(body, outputs, arguments)
    stores = [(outputs[i], made[i]) for i in nest.outputs]
    own = {value for value, _ in stores}
    before = {v: p for v, p in zip(outputs, made, strict=True) if v not in own}
    elements = Elements(symbols, {**before, **places}, lanes=1)
    group = Block(T.cast(block, "int64"), T.cast(thread, "int64"), threads)
    for total in totals:
        assert total.total is not None
        elements.places[total.total] = whole_maximum(elements, total, group)
    if nest.recurrences and threads == scan.THREADS:
        scan.write(elements, nest, stores, group)
    elif nest.recurrences:
        _recurrences(elements, nest, stores, group)
    elif _is_flat(plan, [value for value, _ in stores]):
        _elements(elements, nest, stores, group)
    else:
        Row(elements, plan, stores, group).write(unravel(group.index, elements.sizes(nest.lead)))


def _recurrences(
    elements: Elements, nest: Nest, stores: Sequence[tuple[Value, Place]], group: Block
) -> None:
    task = Scan(elements, nest, stores)
    sizes = [*(task.sizes[i] for i in task.outer), task.columns]
    with T.If(group.item < product(sizes)), T.Then():
        *outer, column = unravel(group.item, sizes)
        task.task(outer, column, 1, 1)


def _elements(e: Elements, nest: Nest, stores: Sequence[tuple[Value, Place]], group: Block) -> None:
    place = stores[0][1]
    sizes = [*e.sizes(nest.lead), place.stride]
    with T.If(group.item < product(sizes)), T.Then():
        axes = unravel(group.item, sizes)
        inside = as_expression(axes[-1]) < as_expression(place.columns)
        with T.If(inside), T.Then(), e.scope():
            made = [e.operand(value, Index(axes, 1, True)) for value, _ in stores]
            for (value, place), element in zip(stores, made, strict=True):
                place.store(axes_of(value, axes), element)
        if place.type.dtype is DType.I8:
            with T.If(T.Not(inside)), T.Then():
                for _, place in stores:
                    T.buffer_store(place.buffer, T.int8(0), [place.offset(axes)])
