# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""A recurrence over many steps, bit for bit as if it went step by step.

    h[t] = a[t] * h[t-1] + b[t]

What costs time is a and b (gates), which need no h.  So a block takes 16 columns of a sequence and
goes through the steps 32 at a time: its threads compute a and b of all of them, 16 threads run the
recurrence through shared memory, and all threads compute what follows h.  Bound: one multiply-add
behind the other for each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.op import Value
from mmc.ir.ops.recurrence import LinearRecurrence
from mmc.targets.cuda.block import Block
from mmc.targets.tvm.expressions import Elements, Index
from mmc.targets.tvm.fold import register, serial
from mmc.targets.tvm.memory import Place, as_expression, unravel
from mmc.targets.tvm.scan import Scan
from mmc.targets.tvm.schedule import Nest

COLUMNS = 16
STEPS = 32
THREADS = COLUMNS * STEPS


def is_chunked(nest: Nest) -> bool:
    """Whether `write` does the nest: one linear recurrence, not along the columns."""
    if len(nest.recurrences) != 1 or not isinstance(nest.recurrences[0], LinearRecurrence):
        return False
    return nest.recurrences[0].axis != len(nest.lead) - 1


def write(
    elements: Elements, nest: Nest, stores: Sequence[tuple[Value, Place]], group: Block
) -> None:
    """The statements of a block: its index counts sequences times groups of columns."""
    e, scan = elements, Scan(elements, nest, stores)
    op: Any = nest.recurrences[0]
    blocks = T.ceildiv(as_expression(scan.columns), COLUMNS)
    sizes = [*(scan.sizes[i] for i in scan.outer), blocks]
    *outer, part = unravel(group.index, sizes) if len(sizes) > 1 else (group.index,)
    place, lane = T.truncdiv(group.thread, COLUMNS), group.thread % COLUMNS
    column = T.Bind(part * COLUMNS + lane)
    exists = column < as_expression(scan.columns)
    steps = as_expression(scan.sizes[scan.axis])
    a, b = (T.alloc_buffer((THREADS,), "float32", scope="shared") for _ in range(2))
    h = register("float32", 1, T.float32(0))
    with T.If(T.And(place < 1, exists)), T.Then(), e.scope():
        axes = scan.axes(outer, 0, column)
        T.buffer_store(h, e.at(op.h0, Index((*axes[: scan.axis], *axes[scan.axis + 1 :]))), [0])
    with serial(T.ceildiv(steps, STEPS)) as chunk:
        step = T.Bind(chunk * STEPS + place)
        here = T.And(step < steps, exists)
        index = Index(scan.axes(outer, step, column))
        with T.If(here), T.Then(), e.scope():
            T.buffer_store(a, e.operand(op.a, index), [group.thread])
            T.buffer_store(b, e.operand(op.b, index), [group.thread])
        T.evaluate(T.cuda.cta_sync())
        with T.If(place < 1), T.Then(), T.unroll(0, STEPS) as i:
            at = T.cast(i, "int64") * COLUMNS + lane
            T.buffer_store(h, a[at] * h[0] + b[at], [0])
            T.buffer_store(b, h[0], [at])
        T.evaluate(T.cuda.cta_sync())
        with T.If(here), T.Then(), e.scope():
            e.remember(op.results[0], index, b[group.thread])
            for value, target in stores:
                target.store(index.axes, e.operand(value, index))
