"""Fuse operations into kernels: what a target emits and launches as one.

Projections (`ternary_matmul`, `linear`, `matmul`) and recurrences are the barriers.  Between two
barriers everything that goes row by row (norms, quantisers, gates, GLU, residuals) becomes one
kernel; what feeds a recurrence element by element becomes part of it (the MLGRU).  A reshape
costs nothing and stays outside.  Equal bodies are one object, so that a target compiles each
kernel once for all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin, producer
from mmc.ir.ops.attention import Rotary
from mmc.ir.ops.int4 import DequantizeInt4
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.logic import Where
from mmc.ir.ops.norm import LayerNorm, MeanSquare, RmsNorm, RmsStatistic
from mmc.ir.ops.pointwise import Add, Binary, Cast, Mul, Sigmoid, Silu, Unary
from mmc.ir.ops.recurrence import Kernel, LinearRecurrence
from mmc.ir.ops.reduce import ArgMax, Max, Mean, Softmax, Sum
from mmc.ir.ops.shape import Expand, Gather, Reshape, Slice, TakePosition
from mmc.ir.ops.source import Constant, Input, Iota, Weight
from mmc.ir.ops.ternary import Dequantize, Quantizes
from mmc.ir.tensors import Tensors
from mmc.ir.types import Shape
from mmc.passes.base import Log, Pass
from mmc.passes.kernel_groups import Groups

SOURCES = (Input, Weight, Constant)
POINTWISE = (Unary, Binary, Where, Dequantize, Expand)
ALONG_LAST_AXIS = (Sum, Mean, Max, ArgMax, Softmax, Slice)
ROW_OPS = (
    *POINTWISE, RmsNorm, RmsStatistic, MeanSquare, LayerNorm, Quantizes, Gather, TakePosition, Iota,
    Rotary, DequantizeInt4,
)  # fmt: skip


def goes_row_by_row(op: Op) -> bool:
    """True for operations that need no more than one row (the last axis) at a time."""
    if isinstance(op, ALONG_LAST_AXIS):
        return op.axis in (-1, op.x.type.rank - 1)
    per_tensor = isinstance(op, Quantizes) and not op.positionwise
    return isinstance(op, ROW_OPS) and not per_tensor


def is_barrier(op: Op) -> bool:
    return not isinstance(op, (*SOURCES, Reshape)) and not goes_row_by_row(op)


@dataclass(frozen=True)
class FuseKernels(Pass):
    """fuse=False makes a kernel of every single operation, to look for a fault.

    sum_states: up to so many rows of a state are summed as they go and never written out.
    """

    name: ClassVar[str] = "fuse-kernels"
    fuse: bool = True
    sum_states: int = 0

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        groups = Groups(graph)
        for op in graph:
            if not isinstance(op, (*SOURCES, Reshape)):
                groups.add(op)
        if self.fuse:
            _join(graph, groups, self.sum_states)
        return _emit(graph, groups, log)


def _join(graph: Graph, groups: Groups, sum_states: int) -> None:
    """Say which operations share a kernel."""
    level = _levels(graph)
    for op in reversed(graph.ops):
        if isinstance(op, LinearRecurrence):
            readers = _sums_of(op, graph, sum_states)
            if all(groups.alone(reader) for reader in readers):
                for reader in readers:
                    groups.join(reader, op)
            _absorb_producers(op, graph, groups)
        elif isinstance(op, Linear):
            _absorb_widening(op, graph, groups)
    absorbed = {op for op in graph if op in groups and not groups.alone(op)}
    for op in graph:
        if op in absorbed or isinstance(op, SOURCES) or not goes_row_by_row(op):
            continue
        for operand in _streamed(op):
            maker = producer(operand)
            free = maker in groups and maker not in absorbed and goes_row_by_row(maker)
            if free and _rows(maker) == _rows(op) and level[maker] == level[op]:
                groups.join(maker, op)
    groups.break_cycles()


def _streamed(op: Op) -> tuple[Value, ...]:
    """The operands that are read at the same row as the result; the others must lie in memory."""
    match op:
        case TakePosition() | Gather():
            return ()
        case _:
            return op.operands


def _rows(op: Op) -> Shape:
    return op.types[0].shape[:-1]


def _levels(graph: Graph) -> dict[Op, int]:
    """How many barriers come before each operation; row-wise ones wait for their readers."""
    soon: dict[Op, int] = {}
    for op in graph:
        makers = {producer(v) for v in op.operands}
        soon[op] = max((soon[m] + is_barrier(m) for m in makers), default=0)
    late: dict[Op, int] = {}
    for op in reversed(graph.ops):
        readers = [late[user] for user in graph.users[op]]
        late[op] = soon[op] if is_barrier(op) or not readers else min(readers)
    return late


def _sums_of(h: LinearRecurrence, graph: Graph, most: int) -> list[Op]:
    """What reads a state: sums over one of its axes and the last step; empty if anything else does.

    Such as y = sum of C * h over the state of a selective scan (arXiv:2312.00752, algorithm 2).
    """
    found: dict[Op, None] = {}
    pending: list[Op] = [h]
    while pending:
        op = pending.pop()
        if any(producer(value) is op for value in graph.values):
            return []
        for reader in graph.users[op]:
            found[reader] = None
            if isinstance(reader, POINTWISE) and reader.types[0].shape == h.type.shape:
                pending.append(reader)
            elif not isinstance(reader, Sum) and not _is_last_step(reader, h):
                return []
    axes = {op.axis % h.type.rank for op in found if isinstance(op, Sum)}
    rows = [h.type.shape[axis] for axis in axes - {h.axis, h.type.rank - 1}]
    fits = len(axes) == len(rows) == 1 and isinstance(rows[0], int) and rows[0] <= most
    return list(found) if fits else []


def _is_last_step(op: Op, h: LinearRecurrence) -> bool:
    last = h.type.shape[h.axis] - 1
    if not isinstance(op, Slice) or op.x is not h or op.axis != h.axis:
        return False
    return op.start == last and op.length == 1


def _absorb_producers(recurrence: LinearRecurrence, graph: Graph, groups: Groups) -> None:
    """Element-wise operations that only the recurrence reads run inside its loop."""
    inside: set[Op] = {recurrence}
    returned = {producer(v) for v in graph.values}
    for op in reversed(graph.ops):
        readers = graph.users[op]
        wanted = bool(readers) and inside.issuperset(readers) and op not in returned
        elementwise = isinstance(op, (*POINTWISE, Slice)) and goes_row_by_row(op)
        same_index = op.types[0].rank in (0, recurrence.type.rank)
        if wanted and elementwise and same_index and op in groups and groups.alone(op):
            inside.add(op)
            groups.join(op, recurrence)


def _absorb_widening(linear: Linear, graph: Graph, groups: Groups) -> None:
    """What widens the numbers of its matrix runs inside a dense product."""
    op = producer(linear.w)
    while isinstance(op, Cast | Add | DequantizeInt4) and len(graph.users[op]) == 1:
        groups.join(op, linear)
        op = producer(op.operands[0])


def _emit(graph: Graph, groups: Groups, log: Log) -> tuple[Graph, Mapped]:
    """The graph with a kernel for each group."""
    new: dict[Value, Value] = {op: op for op in graph if isinstance(op, SOURCES)}
    for members in groups.in_order():
        first = members[0]
        if isinstance(first, Reshape):
            new[first] = first.rebuild(new.__getitem__)
            continue
        reads, body, returned = _body(graph, members)
        with origin(first.origin):
            kernel = Kernel(tuple(new[v] for v in reads), body)
        new |= zip(returned, kernel.results, strict=True)
        log.fire(
            first, body.name, f"{len(members)} operations: {', '.join(m.mnemonic for m in members)}"
        )
    outputs = tuple((name, new[value]) for name, value in graph.outputs)
    return Graph(graph.name, graph.inputs, outputs), new


def _body(graph: Graph, members: Sequence[Op]) -> tuple[list[Value], Graph, list[Value]]:
    """What the kernel reads, its body over x0, x1, ..., and what it returns."""
    inside = set(members)
    inner: dict[Value, Value] = {}
    reads: list[Value] = []
    with origin(None):
        for op in members:
            for value in op.operands:
                if value in inner or producer(value) in inside:
                    continue
                if isinstance(value, Constant):
                    inner[value] = value
                    continue
                inner[value] = Input(f"x{len(reads)}", value.type)
                reads.append(value)
            moved = op.rebuild(inner.__getitem__, keep_origin=False)
            inner |= zip(op.results, moved.results, strict=True)
        returned = [v for op in members for v in op.results if _is_read_outside(v, graph, inside)]
        inputs = tuple(i for v in reads if isinstance(i := inner[v], Input))
        outputs = tuple((f"y{n}", inner[v]) for n, v in enumerate(returned))
        return reads, Graph(_name(members), inputs, outputs), returned


def _is_read_outside(value: Value, graph: Graph, inside: set[Op]) -> bool:
    users = graph.users[producer(value)]
    reads = any(user not in inside and any(v == value for v in user.operands) for user in users)
    return reads or any(v == value for v in graph.values)


def _name(members: Sequence[Op]) -> str:
    """A name that says what the kernel does."""
    if len(members) == 1:
        return members[0].mnemonic
    kinds = {type(op) for op in members}
    if Linear in kinds:
        return "linear"
    if LinearRecurrence in kinds:
        return "mlgru" if {Sigmoid, Silu} <= kinds else "linear_recurrence"
    parts = {
        "embedding": Gather in kinds,
        "last": TakePosition in kinds,
        "residual": Add in kinds,
        "glu": {Silu, Slice, Mul} <= kinds,
        "gate": bool({Silu, Sigmoid} & kinds) and Slice not in kinds,
        "norm": any(issubclass(k, RmsNorm | RmsStatistic) or "norm" in k.mnemonic for k in kinds),
        "quantize": any(issubclass(k, Quantizes) for k in kinds),
    }
    return "_".join(part for part, present in parts.items() if present) or "pointwise"


PASS = FuseKernels
