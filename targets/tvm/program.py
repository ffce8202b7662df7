# pyright: basic
# The builder's expressions are TIR, which TVM does not type.
"""From graphs of kernels to one object file: each distinct kernel once, an entry for each graph.

An entry is `entry(weights, inputs, outputs, workspace, sizes...)`, with the caches behind the
workspace where there are any: it calls its graph's kernels one after the other, with pointers into
the arenas of `mmc.targets.tvm.plan`.  The sizes are the graph's symbols by name: the same code runs
a token of one sequence and any prompt of any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm.script.ir_builder import tirx as T

from mmc.ir.graph import Graph
from mmc.ir.op import Value
from mmc.ir.ops.recurrence import Kernel as KernelOp
from mmc.ir.ops.source import Weight
from mmc.ir.packing import Layout
from mmc.ir.types import Dim, numel, static_shape
from mmc.targets.layout import ALIGNMENT, aligned
from mmc.targets.tvm import attention, attention_codes, dense, rows, steps
from mmc.targets.tvm.host import Entry, Kernel, KernelCall, Pointer, Tensor, build, size_variable
from mmc.targets.tvm.memory import size_of
from mmc.targets.tvm.plan import (
    Location,
    Plan,
    lone_append,
    lone_matmul,
    root_of,
    symbols_of,
)
from mmc.targets.tvm.rowwise import ROWS, flatten_rows

EmitMatmul = Callable[[int, int, Layout], Kernel]
"""Makes the kernel of a ternary matmul: rows n, columns k, layout."""

EmitLinear = Callable[[Graph, str], Kernel]
"""Makes the kernel of a body that is a dense product, by a name."""


SPECIAL = (attention, attention_codes, steps)
"""Modules with kernels for bodies of a form of their own."""


@dataclass
class Program:
    """Collects the kernels of several entries and builds them together."""

    weights: Mapping[str, int]
    """The byte offset of each weight in the weights file."""
    emit_matmul: EmitMatmul
    emit_linear: EmitLinear
    kernels: dict[Graph, Kernel] = field(default_factory=dict[Graph, Kernel])
    entries: list[Entry] = field(default_factory=list[Entry])

    def add(self, plan: Plan) -> None:
        """Add the entry of a planned graph."""
        _EntryBuilder(self, plan).write()

    def kernel(self, body: Graph) -> Kernel:
        """The kernel of a body; equal bodies share one."""
        if body not in self.kernels:
            self.kernels[body] = self._emitter(body)(body, f"{body.name}_{len(self.kernels)}")
        return self.kernels[body]

    def _emitter(self, body: Graph) -> EmitLinear:
        """What writes the kernel of a body."""
        special = next((kind for kind in SPECIAL if kind.has_kernel(body)), None)
        if special is not None:
            return special.emit
        return rows.emit if dense.lone_linear(body) is None else self.emit_linear

    def build(self, target: tvm.target.Target) -> bytes:
        """The object file."""
        return build(self.entries, target)


class _EntryBuilder:
    def __init__(self, program: Program, plan: Plan) -> None:
        self.program, self.plan = program, plan
        self.sizes = {name: size_variable(name) for name in symbols_of(plan.graph)}
        self.tensors = {"weights": Tensor("weights", 0)}
        self.offsets: dict[str, list[Any]] = {}
        for name, arena in plan.arenas.items():
            starts: list[Any] = [T.int64(0)]
            for slot in arena.slots:
                starts.append(starts[-1] + _aligned(size_of(slot, self.sizes)))
            self.offsets[name] = starts
            self.tensors[name] = Tensor(name, starts[-1])

    def write(self) -> None:
        calls = tuple(self._call(op) for op in self.plan.kernels)
        entry = Entry(
            self.plan.graph.name, tuple(self.tensors.values()), tuple(self.sizes.values()), calls
        )
        self.program.entries.append(entry)

    def _call(self, op: KernelOp) -> KernelCall:
        matmul = lone_matmul(op.body)
        if matmul is not None:
            n, k = static_shape(matmul.w.type.shape)
            kernel = self.program.emit_matmul(n, k, matmul.w.type.dtype.layout or "2bit")
            x, w = op.operands
            count = self._count(numel(x.type.shape[:-1]))
            given = (self._pointer(w), self._pointer(x), self._pointer(op), count)
            return KernelCall(kernel, given)
        flat = dense.flatten(op.body) or flatten_rows(op.body)
        body, counts = op.body, dict[str, Dim]()
        if flat is not None:
            body, counts = flat[0], {ROWS: flat[1]}
        numbers = (
            self._count(counts[s]) if s in counts else self.sizes[s] for s in rows.symbols_of(body)
        )
        pointers = (self._pointer(v) for v in (*op.operands, *op.results))
        moves = (int(op not in self.plan.caches.values()),) if lone_append(op.body) else ()
        return KernelCall(self.program.kernel(body), (*pointers, *numbers, *moves))

    def _pointer(self, value: Value) -> Pointer:
        root = root_of(value)
        if isinstance(root, Weight):
            return self.tensors["weights"].at(self.program.weights[root.name])
        place: Location = self.plan.locations[root]
        return self.tensors[place.arena].at(self.offsets[place.arena][place.slot])

    def _count(self, dim: Dim) -> Any:
        return size_of(dim, self.sizes)


def _aligned(size: Any) -> Any:
    if isinstance(size, int):
        return aligned(size)
    return T.floordiv(size + (ALIGNMENT - 1), T.int64(ALIGNMENT)) * ALIGNMENT
