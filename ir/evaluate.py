"""The reference interpreter runs each operation's reference: slow, plain, and right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from mmc.errors import MmcError
from mmc.ir.graph import Graph, bind_op
from mmc.ir.op import Op, Value
from mmc.ir.ops.source import Input, Weight
from mmc.ir.types import Dim, SymbolicDim, bind_shape

Arrays = tuple[np.ndarray, ...]
Observe = Callable[[Op, Arrays], Arrays]
NO_TENSORS: Mapping[str, np.ndarray] = {}


def evaluate(
    graph: Graph,
    inputs: Mapping[str, np.ndarray],
    tensors: Mapping[str, np.ndarray] = NO_TENSORS,
    observe: Observe | None = None,
) -> dict[str, np.ndarray]:
    """The outputs of the graph by name.

    inputs: an array for each input; their shapes give the symbols their values.
    tensors: the arrays that `weight` operations name.
    observe: sees the results of each operation and returns what its readers shall see.
    """
    symbols = bind_inputs(graph, inputs)
    readers = Counter(v for op in graph.ops for v in set(op.operands)) + Counter(set(graph.values))
    env: dict[Value, np.ndarray] = {}

    def read(value: Value) -> np.ndarray:
        if isinstance(value, Weight):
            return tensors[value.name]
        return env[value]

    for op in graph.ops:
        if isinstance(op, Weight):
            continue
        if isinstance(op, Input):
            made = (np.asarray(inputs[op.name]),)
        else:
            made = _run(bind_op(op, symbols) if symbols else op, [read(v) for v in op.operands])
        if observe is not None:
            made = observe(op, made)
        env |= zip(op.results, made, strict=True)
        for value in set(op.operands):
            readers[value] -= 1
            if not readers[value]:
                env.pop(value, None)
    return {name: np.asarray(read(value)) for name, value in graph.outputs}


def value_of(value: Value, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The array of a value that depends on weights alone."""
    return evaluate(Graph("value", (), (("value", value),)), {}, tensors)["value"]


def _run(op: Op, operands: list[np.ndarray]) -> Arrays:
    try:
        with np.errstate(all="ignore"):
            made = op.reference(*operands)
    except (ValueError, IndexError, TypeError) as error:
        raise MmcError(f"{op.mnemonic}: {error}", str(op.origin or "")) from error
    return made if isinstance(made, tuple) else (made,)  # pyright: ignore[reportUnknownVariableType]


def bind_inputs(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The number of each symbol, from the inputs' shapes; raise MmcError where they clash."""
    symbols: dict[str, int] = {}
    shapes: dict[Input, tuple[int, ...]] = {}
    for op in graph.inputs:
        if op.name not in inputs:
            raise MmcError(f"input {op.name!r} is missing", f"@{graph.name}")
        if op.type.dtype.layout is not None:
            continue  # packed: flat bytes
        found = np.shape(inputs[op.name])
        if len(found) != op.type.rank:
            raise MmcError(
                f"input {op.name!r} has shape {list(found)}, needs {op.type}", f"@{graph.name}"
            )
        for dim, size in zip(op.type.shape, found, strict=True):
            if isinstance(dim, SymbolicDim) and (name := _lone_symbol(dim)):
                symbols.setdefault(name, size)
        shapes[op] = found
    for op, found in shapes.items():
        if bind_shape(op.type.shape, symbols) != found:
            raise MmcError(
                f"input {op.name!r} has shape {list(found)}, needs {op.type}", f"@{graph.name}"
            )
    return symbols


def _lone_symbol(dim: Dim) -> str | None:
    """The symbol where the dimension is just that symbol."""
    if isinstance(dim, SymbolicDim) and len(dim.terms) == 1:
        monomial, coefficient = dim.terms[0]
        return monomial[0] if coefficient == 1 and len(monomial) == 1 else None
    return None
