"""An embedding of 8 or 4 bits a number, for less memory: a change of the model, as asked for.

A table of V x H numbers becomes codes and steps.  8 bits: codes from 1 to 255 and a step for each
row, so that a number is about (code - 128) * step.  4 bits: `mmc.ir.ops.int4`, a step for each 32
columns.  Passes keep the meaning of a graph and may not do this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mmc.errors import MmcError
from mmc.frontends.base import Imported
from mmc.ir.op import Op, Value, origin
from mmc.ir.ops.int4 import GROUP, DequantizeInt4, QuantizeInt4
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.pointwise import Add, Cast, Mul
from mmc.ir.ops.shape import Gather, Reshape
from mmc.ir.ops.source import Weight, scalar
from mmc.ir.ops.ternary import AbsMax, Quantize
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType

_ZERO = 128.0
"""The 8 bit code of zero: unsigned, because the rows of int8 tensors are padded in memory."""

_FLOATS = (DType.F32, DType.F16, DType.BF16)


@dataclass(frozen=True)
class _Table:
    """A rounded table; the codes and the steps have a row for each of its rows."""

    codes: Weight
    steps: Weight

    def rows(self, indices: Value) -> Value:
        """Some rows, in float32."""
        raise NotImplementedError

    def product(self, x: Value) -> Value:
        """x times the transposed table."""
        raise NotImplementedError


class _EightBits(_Table):
    def rows(self, indices: Value) -> Value:
        code = Cast(Gather(self.codes, indices), DType.F32)
        return Mul(Add(code, scalar(-_ZERO)), Gather(self.steps, indices))

    def product(self, x: Value) -> Value:
        dtype = x.type.dtype
        dot = Linear(x, Add(Cast(self.codes, dtype), scalar(-_ZERO, dtype)))
        return Mul(dot, Cast(Reshape(self.steps, self.steps.type.shape[:1]), dtype))


class _FourBits(_Table):
    def rows(self, indices: Value) -> Value:
        return DequantizeInt4(Gather(self.codes, indices), Gather(self.steps, indices))

    def product(self, x: Value) -> Value:
        return Linear(x, Cast(DequantizeInt4(self.codes, self.steps), x.type.dtype))


def in_fewer_bits(imported: Imported, kind: str) -> Imported:
    """The model with every table of floats that is looked up by an index in codes and steps.

    kind: one of `EMBEDDINGS`.  Raises MmcError where there is none, or where 4 bits do not fit.
    """
    made: dict[Weight, _Table] = {}

    def step(old: Op, moved: Op) -> Value:
        if isinstance(moved, Linear):
            return _from_codes(moved, made)
        if not isinstance(moved, Gather):
            return moved
        table = moved.table.x if isinstance(moved.table, Cast) else moved.table
        if not isinstance(table, Weight) or table.type.rank != 2 or table.type.dtype not in _FLOATS:
            return moved
        if table not in made:
            made[table] = EMBEDDINGS[kind](table, imported.tensors)
        with origin(old.origin):
            return Cast(made[table].rows(moved.indices), moved.type.dtype)

    graph, _ = imported.graph.map(step)
    if not made:
        hint = f"leave out --embedding {kind}"
        raise MmcError("looks up no table of floats", imported.source, hint)
    return replace(imported, graph=graph)


def _from_codes(head: Linear, made: Mapping[Weight, _Table]) -> Value:
    """A head that shares the table reads the same codes; it has been looked up before."""
    table = head.w.x if isinstance(head.w, Cast) else head.w
    if not isinstance(table, Weight) or table not in made or head.bias is not None:
        return head
    with origin(head.origin):
        return made[table].product(head.x)


def _in_eight_bits(table: Weight, tensors: Tensors) -> _Table:
    q, steps = Quantize(Cast(table, DType.F32), AbsMax(low=-127, eps=1e-30)).results
    codes = Cast(Add(Cast(q, DType.F32), scalar(_ZERO)), DType.U8)
    return _EightBits(*_added(table, tensors, codes, steps))


def _in_four_bits(table: Weight, tensors: Tensors) -> _Table:
    columns = table.type.shape[1]
    if not isinstance(columns, int) or columns % GROUP:
        raise MmcError(
            f"4 bits go in groups of {GROUP}, the table has {columns} columns",
            f"weight {table.name}", "--embedding int8",
        )  # fmt: skip
    codes, steps = QuantizeInt4(Cast(table, DType.F32)).results
    return _FourBits(*_added(table, tensors, codes, steps))


def _added(table: Weight, tensors: Tensors, codes: Value, steps: Value) -> tuple[Weight, Weight]:
    return (
        tensors.add(f"{table.name}.codes", codes.type, codes),
        tensors.add(f"{table.name}.steps", steps.type, steps),
    )


EMBEDDINGS: Mapping[str, Callable[[Weight, Tensors], _Table]] = {
    "int8": _in_eight_bits,
    "int4": _in_four_bits,
}
"""What `--embedding` takes; without it the checkpoint's own numbers stay."""
