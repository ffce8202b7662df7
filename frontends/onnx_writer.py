"""Makes the nodes and initialisers of an ONNX graph, with names that a reader can follow."""

# onnx_ir leaves attribute values unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir

from mmc.errors import MmcError
from mmc.frontends.onnx_call import DTYPES
from mmc.frontends.onnx_file import OWN_DOMAIN
from mmc.frontends.operands import Unsupported
from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value
from mmc.ir.ops.source import Input, Weight
from mmc.ir.types import Dim, DType, Shape, SymbolicDim, TensorType, static_shape

ONNX_DTYPES = {ours: theirs for theirs, ours in DTYPES.items()}
Emit = Callable[["Writer", Any, list[onnx_ir.Value]], onnx_ir.Value | Sequence[onnx_ir.Value]]


@dataclass
class Shared:
    """What the nested graphs of one model share.

    table: what to write for each kind of operation.  tensors: what `weight` operations name.
    symbols: for each symbolic size an input that has it, and on which axis.
    """

    table: Mapping[type[Op], Emit]
    tensors: Mapping[str, np.ndarray]
    symbols: Mapping[str, tuple[onnx_ir.Value, int]]
    initializers: dict[str, onnx_ir.Value] = field(default_factory=dict[str, onnx_ir.Value])
    functions: set[str] = field(default_factory=set[str])
    taken: Counter[str] = field(default_factory=Counter[str])

    def unique(self, name: str) -> str:
        self.taken[name] += 1
        return name if self.taken[name] == 1 else f"{name}.{self.taken[name]}"


class Writer:
    """One graph that is being written."""

    def __init__(self, shared: Shared) -> None:
        self.shared, self._nodes = shared, list[onnx_ir.Node]()
        self._place = ""

    def nested(self) -> Writer:
        return Writer(self.shared)

    def inline(self, graph: Graph, given: Sequence[onnx_ir.Value]) -> list[onnx_ir.Value]:
        """Write every operation of the graph; returns what its outputs became."""
        env: dict[Value, onnx_ir.Value] = dict(zip(graph.inputs, given, strict=True))
        for op in graph.ops:
            if isinstance(op, Input):
                continue
            if isinstance(op, Weight):
                env[op] = self._weight(op)
                continue
            made = self._op(op, [env[v] for v in op.operands])
            env |= zip(op.results, made, strict=True)
        return [env[value] for value in graph.values]

    def _op(self, op: Op, given: list[onnx_ir.Value]) -> Sequence[onnx_ir.Value]:
        where = str(op.origin or op.mnemonic)
        if type(op) not in self.shared.table:
            raise MmcError(f"operation {op.mnemonic} has no form in ONNX", where)
        before = self._place
        if op.origin is not None:
            self._place = op.origin.path
        try:
            made = self.shared.table[type(op)](self, op, given)
        except Unsupported as error:
            raise MmcError(f"operation {op.mnemonic} has no form in ONNX: {error}", where) from None
        self._place = before
        return made if isinstance(made, Sequence) else [made]

    def node(self, name: str, *inputs: onnx_ir.Value | None, **attributes: Any) -> onnx_ir.Value:
        return self.nodes(name, list(inputs), 1, **attributes)[0]

    def own(self, name: str, *inputs: onnx_ir.Value, **attributes: Any) -> list[onnx_ir.Value]:
        """A call of a function of `onnx_functions`."""
        self.shared.functions.add(name)
        count = 2 if "Quantize" in name else 1
        return self.nodes(name, list(inputs), count, OWN_DOMAIN, **attributes)

    def nodes(
        self,
        name: str,
        inputs: Sequence[onnx_ir.Value | None],
        count: int,
        domain: str = "",
        **attributes: Any,
    ) -> list[onnx_ir.Value]:
        label = self.shared.unique(f"{self._place}.{name}" if self._place else name)
        made = onnx_ir.node(
            name, inputs, attributes, domain=domain, num_outputs=count, name=label
        )  # fmt: skip
        for i, output in enumerate(made.outputs):
            output.name = label if i == 0 else f"{label}:{i}"
        self._nodes.append(made)
        return list(made.outputs)

    def input(self, name: str, declared: TensorType) -> onnx_ir.Value:
        return typed(self.shared.unique(name), declared)

    def output(self, value: onnx_ir.Value, declared: onnx_ir.Value) -> onnx_ir.Value:
        """What the graph returns, under its own name; it may be an input, or come twice."""
        made = self.node("Identity", value)
        made.name, made.shape, made.type = declared.name, declared.shape, declared.type
        return made

    def graph(
        self, name: str, inputs: Sequence[onnx_ir.Value], outputs: Sequence[onnx_ir.Value]
    ) -> onnx_ir.Graph:
        return onnx_ir.Graph(inputs, outputs, nodes=self._nodes, name=self.shared.unique(name))

    def array(self, name: str, content: np.ndarray) -> onnx_ir.Value:
        """An initialiser; two of one name are one."""
        known = self.shared.initializers
        if name not in known:
            tensor = onnx_ir.tensor(content, name=name)
            known[name] = onnx_ir.Value(
                name=name,
                shape=onnx_ir.Shape(content.shape),
                type=onnx_ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        return known[name]

    def ints(self, numbers: Sequence[int]) -> onnx_ir.Value:
        return self.array("ints:" + ",".join(map(str, numbers)), np.array(numbers, np.int64))

    def number(self, number: float | int | bool, dtype: DType) -> onnx_ir.Value:
        return self.array(f"{dtype}:{number!r}", np.array(number, dtype.numpy))

    def double(self, number: float) -> onnx_ir.Value:
        return self.array(f"f64:{number!r}", np.array(number, np.float64))

    def _weight(self, op: Weight) -> onnx_ir.Value:
        return self.array(op.name, self.shared.tensors[op.name])

    def transposed(self, matrix: onnx_ir.Value) -> onnx_ir.Value:
        """A matrix [N, K] as ONNX multiplies by it, [K, N]: a weight is stored that way."""
        if matrix.const_value is None:
            return self.node("Transpose", matrix, perm=[1, 0])
        content = np.ascontiguousarray(matrix.const_value.numpy().T)
        return self.array(f"{matrix.name}.transposed", content)

    def dims(self, shape: Shape) -> onnx_ir.Value:
        """A shape as int64 [rank], worked out from the inputs where it is symbolic."""
        if all(isinstance(d, int) for d in shape):
            return self.ints(static_shape(shape))
        parts = [self._dim(d) for d in shape]
        return parts[0] if len(parts) == 1 else self.node("Concat", *parts, axis=0)

    def new_shape(self, shape: Shape) -> onnx_ir.Value:
        """The shape for a reshape, which finds one size by itself."""
        if sum(isinstance(d, SymbolicDim) for d in shape) != 1 or 0 in shape:
            return self.dims(shape)
        return self.ints([d if isinstance(d, int) else -1 for d in shape])

    def _dim(self, dim: Dim) -> onnx_ir.Value:
        """A polynomial of sizes as int64 [1]."""
        if isinstance(dim, int):
            return self.ints([dim])
        total: onnx_ir.Value | None = None
        for monomial, coefficient in dim.terms:
            term = self.ints([coefficient])
            for name in monomial:
                value, axis = self.shared.symbols[name]
                size = self.node("Shape", value, start=axis, end=axis + 1)
                term = (
                    size
                    if coefficient == 1 and name == monomial[0]
                    else self.node("Mul", term, size)
                )
            total = term if total is None else self.node("Add", total, term)
        assert total is not None
        return total


def typed(name: str, declared: TensorType) -> onnx_ir.Value:
    """A value with its type, as inputs and outputs have it."""
    dims = [d if isinstance(d, int) else str(d) for d in declared.shape]
    return onnx_ir.Value(
        name=name, shape=onnx_ir.Shape(dims), type=onnx_ir.TensorType(ONNX_DTYPES[declared.dtype])
    )
