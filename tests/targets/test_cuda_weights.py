"""Which weights of a program may lie on the host beside a GPU; no GPU is needed for that."""

from __future__ import annotations

import pytest

from mmc.errors import MmcError
from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Value
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.pointwise import Cast
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.shape import Gather
from mmc.ir.ops.source import Input, Weight
from mmc.ir.types import DType, TensorType, symbol
from mmc.targets.cuda.weights import tables

IDS = Input("ids", TensorType(DType.I64, (symbol("B"), 1)))
TABLE = Weight("embedding", TensorType(DType.BF16, (50, 8)))
STEPS = Weight("steps", TensorType(DType.F32, (50, 1)))
HEAD = Weight("head", TensorType(DType.F32, (50, 8)))


def looked_up(table: Value) -> Kernel:
    given = Input("table", table.type), Input("ids", IDS.type)
    return Kernel((table, IDS), graph_of("embedding", {"x": Cast(Gather(*given), DType.F32)}))


def multiplied(head: Value) -> Kernel:
    x = looked_up(TABLE).results[0]
    given = Input("x", x.type), Input("w", head.type)
    body = graph_of("head", {"y": Linear(given[0], Cast(given[1], DType.F32))})
    return Kernel((x, head), body)


def graph(**kernels: Kernel) -> Graph:
    return graph_of("g", {name: kernel.results[0] for name, kernel in kernels.items()})


def test_a_table_of_which_rows_are_looked_up_may() -> None:
    assert tables([graph(head=multiplied(HEAD), steps=looked_up(STEPS))]) == {TABLE}


def test_a_table_that_a_head_reads_as_well_may_not() -> None:
    """Nor where another entry's head does."""
    with pytest.raises(MmcError, match="no embedding can lie on the host: embedding is the head"):
        tables([graph(x=looked_up(TABLE)), graph(head=multiplied(TABLE))])


def test_says_where_there_is_no_table() -> None:
    with pytest.raises(MmcError, match="there is no table"):
        tables([graph(steps=looked_up(STEPS))])
