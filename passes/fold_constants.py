"""Fold what depends on parameters alone: weight quantisers, lower bounds, casts of gains.

The folded value becomes a weight with a recipe; it is computed in the graph's own arithmetic
(float32) and only when somebody asks for its bytes.  After this pass a quantised weight is a
tensor of three values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.source import Constant, Input, Iota, Weight
from mmc.ir.ops.ternary import Dequantize, TernaryMatmul
from mmc.ir.tensors import Tensors
from mmc.ir.types import SymbolicDim
from mmc.passes.base import Log, Pass


@dataclass(frozen=True)
class FoldConstants(Pass):
    name: ClassVar[str] = "fold-constants"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        constant = constant_ops(graph)
        tops = [op for op in graph if op in constant and _is_top(op, graph, constant)]
        folded: dict[Op, Weight] = {}
        for op in tops:
            source = _weights(op)[0]
            folded[op] = tensors.add(f"{source.name}.folded", op.type, op)
            log.fire(
                op, "fold", f"{source.name}: {op.mnemonic} and what feeds it fold into a weight"
            )

        def step(old: Op, moved: Op) -> Op:
            return folded.get(old) or _with_stored_scale(moved, tensors, log)

        return graph.map(step)


def _with_stored_scale(op: Op, tensors: Tensors, log: Log) -> Op:
    """A matrix's scale is data: as a number in the code it would give each layer its own kernel."""
    if not isinstance(op, Dequantize) or not isinstance(op.w, Constant):
        return op
    matrix = op.q.w if isinstance(op.q, TernaryMatmul) else None
    name = matrix.name.removesuffix(".trits") if isinstance(matrix, Weight) else "activations"
    scale = tensors.add(f"{name}.scale", op.w.type, op.w.reference())
    log.fire(op, "store-scale", f"{scale.name}: a number becomes a weight")
    return Dequantize(op.q, op.s, scale)


def constant_ops(graph: Graph) -> set[Op]:
    """Operations that no input reaches, and whose shape has no symbol."""
    constant: set[Op] = set()
    for op in graph:
        fixed = not any(isinstance(d, SymbolicDim) for t in op.types for d in t.shape)
        if (
            fixed
            and not isinstance(op, Input)
            and all(producer(v) in constant for v in op.operands)
        ):
            constant.add(op)
    return constant


def _is_top(op: Op, graph: Graph, constant: set[Op]) -> bool:
    """True where something that stays reads the value, and it is not a source itself."""
    if isinstance(op, Weight | Constant | Iota) or len(op.results) != 1 or not _weights(op):
        return False
    read_outside = any(user not in constant for user in graph.users[op])
    return read_outside or any(value is op for value in graph.values)


def _weights(op: Op) -> list[Weight]:
    seen: dict[Op, None] = {}
    stack: list[Value] = [op]
    while stack:
        node = producer(stack.pop())
        if node not in seen:
            seen[node] = None
            stack += reversed(node.operands)
    return [node for node in seen if isinstance(node, Weight)]


PASS = FoldConstants
