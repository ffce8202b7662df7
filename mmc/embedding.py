"""An embedding of 8 bits a number, for less memory: a change of the model, as asked for.

A table of V x H numbers becomes codes from 1 to 255, and a step for each row, so that a number is
about (code - 128) * step.  Passes keep the meaning of a graph and may not do this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mmc.errors import MmcError
from mmc.frontends.base import Imported
from mmc.ir.op import Op, Value, origin
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.pointwise import Add, Cast, Mul
from mmc.ir.ops.shape import Gather, Reshape
from mmc.ir.ops.source import Weight, scalar
from mmc.ir.ops.ternary import AbsMax, Quantize
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType

EMBEDDINGS = ("int8",)
"""What `--embedding` takes; without it the checkpoint's own numbers stay."""

_ZERO = 128.0
"""The code of zero: unsigned bytes, because the rows of int8 tensors are padded in memory."""

_FLOATS = (DType.F32, DType.F16, DType.BF16)


def in_eight_bits(imported: Imported) -> Imported:
    """The model with every table of floats that is looked up by an index in codes and steps.

    Raises MmcError where there is none.
    """
    made: dict[Weight, tuple[Weight, Weight]] = {}

    def step(old: Op, moved: Op) -> Value:
        if isinstance(moved, Linear):
            return _from_codes(moved, made)
        if not isinstance(moved, Gather):
            return moved
        table = moved.table.x if isinstance(moved.table, Cast) else moved.table
        if not isinstance(table, Weight) or table.type.rank != 2 or table.type.dtype not in _FLOATS:
            return moved
        if table not in made:
            made[table] = _rounded(table, imported.tensors)
        codes, steps = made[table]
        with origin(old.origin):
            code = Cast(Gather(codes, moved.indices), DType.F32)
            value = Mul(Add(code, scalar(-_ZERO)), Gather(steps, moved.indices))
            return Cast(value, moved.type.dtype)

    graph, _ = imported.graph.map(step)
    if not made:
        raise MmcError("looks up no table of floats", imported.source, "leave out --embedding int8")
    return replace(imported, graph=graph)


def _from_codes(head: Linear, made: Mapping[Weight, tuple[Weight, Weight]]) -> Value:
    """A head that shares the table reads the same codes; it has been looked up before."""
    table = head.w.x if isinstance(head.w, Cast) else head.w
    if not isinstance(table, Weight) or table not in made or head.bias is not None:
        return head
    codes, steps = made[table]
    with origin(head.origin):
        dot = Linear(head.x, Add(Cast(codes, head.x.type.dtype), scalar(-_ZERO, head.x.type.dtype)))
        return Mul(dot, Cast(Reshape(steps, steps.type.shape[:1]), head.type.dtype))


def _rounded(table: Weight, tensors: Tensors) -> tuple[Weight, Weight]:
    rows = Cast(table, DType.F32)
    q, steps = Quantize(rows, AbsMax(low=-127, eps=1e-30)).results
    codes = Cast(Add(Cast(q, DType.F32), scalar(_ZERO)), DType.U8)
    return (
        tensors.add(f"{table.name}.codes", codes.type, codes),
        tensors.add(f"{table.name}.steps", steps.type, steps),
    )
