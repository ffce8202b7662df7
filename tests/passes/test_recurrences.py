"""Cells of the literature, written as one step in torch: which are linear recurrences, and why not.

They are lifted over time by `mmc.over_time`, or written out as a loop.
"""

# pyright: basic
from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.associative_scan import associative_scan, generic_associative_scan
from torch.export import Dim

from mmc.driver import analyse
from mmc.frontends.over_time import over_time
from mmc.frontends.torch_export import import_module
from mmc.frontends.torch_types import array_of
from mmc.ir.evaluate import evaluate
from mmc.ir.ops.recurrence import Scan
from tests.passes.recurrent_cells import (
    Average,
    Cell,
    Crossed,
    D,
    DenseRnn,
    Elman,
    Gru,
    Hgrn,
    Lstm,
    MinGru,
    Mlgru,
    ReleasedMlgru,
    Rotated,
    Rwkv4,
    SelectiveScan,
    SummedScan,
    TernaryCell,
    TwoAverages,
)

B, T = Dim("B"), Dim("T")


UNROLLED = (Mlgru, ReleasedMlgru, Hgrn, SelectiveScan, SummedScan, TernaryCell)
"""Cells with a product and a sum."""
LINEAR = (
    Average, MinGru, Mlgru, ReleasedMlgru, Hgrn, SelectiveScan, SummedScan, TwoAverages, TernaryCell
)  # fmt: skip
KEPT = {
    Gru: r"nonlinear: sigmoid at OverTime, over_time.py:\d+ of the state",
    Lstm: r"nonlinear: sigmoid at OverTime, over_time.py:\d+ of the state",
    Elman: r"nonlinear: tanh at OverTime, over_time.py:\d+ of the state",
    DenseRnn: r"dense: linear at OverTime, over_time.py:\d+ mixes the elements of the state",
    Rotated: r"dense: slice at OverTime, over_time.py:\d+ mixes the elements of the state",
    Crossed: "state carry0 depends on state carry1: not a recurrence each",
}


class Unrolled(nn.Module):
    """The steps of a cell as a loop in Python, which a trace writes out."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        ys: list[Tensor] = []
        for t in range(x.shape[1]):
            y, *after = self.cell(x[:, t], *states)
            ys, states = [*ys, y], tuple(after)
        return torch.stack(ys, 1), *states


def found_in(module: nn.Module, states: Sequence[Any], shapes: Any = None) -> Any:
    """The compilation up to the verdicts; its graph must compute what torch does."""
    time = 5 if shapes else 7
    example = (torch.randn(3, time, D), *(torch.randn(3, *shape) for shape in states))
    imported = import_module(module.eval(), example, shapes)
    done = analyse(imported)
    batch = 2 if shapes else 3
    given = (torch.randn(batch, 7, D), *(torch.rand(batch, *shape) for shape in states))
    names = [op.name for op in imported.graph.inputs]
    arrays = dict(zip(names, map(array_of, given), strict=True))
    made = evaluate(done.core, arrays, imported.tensors)
    with torch.no_grad():
        for array, wanted in zip(made.values(), module(*given), strict=True):
            np.testing.assert_allclose(array, array_of(wanted), 1e-4, 1e-4)
    return done


def lifted(kind: type[Cell]) -> Any:
    torch.manual_seed(1)
    return found_in(over_time(kind()), kind.states, ({0: B, 1: T}, ({0: B},) * len(kind.states)))


def unrolled(kind: type[Cell]) -> Any:
    torch.manual_seed(1)
    return found_in(Unrolled(kind()), kind.states)


@pytest.mark.parametrize("kind", LINEAR)
def test_cells_that_are_linear(kind: type[Cell]) -> None:
    done = lifted(kind)
    assert [r.linear for r in done.recurrences] == [True] * len(kind.states)
    assert not any(isinstance(op, Scan) for op in done.core)
    assert all(layer.ternary for layer in done.layers) is (kind in (TernaryCell, Average))


class Associative(nn.Module):
    """h' = a*h + b by torch's `associative_scan` over pairs (a, b)."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(D, 2 * D)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        def after(left: Any, right: Any) -> tuple[Tensor, Tensor]:
            return right[0] * left[0], right[0] * left[1] + right[1]

        a, b = self.project(x).chunk(2, -1)
        pairs = (a.sigmoid(), b)
        return (associative_scan(after, pairs, 1, combine_mode="generic")[1],)


@pytest.mark.parametrize("shapes", [None, ({0: B, 1: Dim("T", min=3)},)])
def test_an_associative_scan_is_linear(shapes: Any) -> None:
    torch.manual_seed(1)
    torch.compiler.reset()  # or what torch compiled for one length is a guard against others
    done = found_in(Associative(), (), shapes)
    assert {r.linear for r in done.recurrences} == {True}
    assert not any(isinstance(op, Scan) for op in done.core)
    assert sys.modules[generic_associative_scan.__module__].generic_associative_scan is (
        generic_associative_scan
    )


def test_a_stabilised_cell_is_linear_and_stays_a_scan() -> None:
    done = lifted(Rwkv4)
    (found,) = done.recurrences
    assert (found.linear, found.why[:22]) == (True, "times exp(carry2) a st")


@pytest.mark.parametrize("kind", KEPT)
def test_cells_that_are_not(kind: type[Cell]) -> None:
    done = lifted(kind)
    (found,) = done.recurrences
    assert not found.linear
    assert re.search(KEPT[kind], found.why), found.why


@pytest.mark.parametrize("kind", UNROLLED)
def test_unrolled_steps_are_rolled_up(kind: type[Cell]) -> None:
    done = unrolled(kind)
    assert [r.linear for r in done.recurrences] == [True]
    assert all(layer.ternary for layer in done.layers) is (kind is TernaryCell)
    assert len(done.core) < len(done.imported.graph) / 2


def test_unrolled_steps_that_are_not_linear_stay() -> None:
    done = unrolled(Gru)
    (verdict,) = (v for step in done.steps for v in step.log.verdicts if step.name == "roll-up")
    assert (verdict.fired, done.recurrences) == (False, [])


def test_the_mamba_of_transformers_is_linear() -> None:
    """As it is: its loop over time, written out by the trace."""
    pytest.importorskip("transformers")
    from tests.end_to_end.recurrent import golden, theirs

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = theirs("mamba")

        def forward(self, ids: Tensor) -> Tensor:
            return self.model(ids, use_cache=False).logits

    ids, wanted = golden("mamba")
    imported = import_module(Logits(), (torch.from_numpy(ids[:, :6]),))
    done = analyse(imported)
    assert [(r.linear, r.state) for r in done.recurrences] == [(True, "f32[2, 80, 16]")] * 2
    found = evaluate(done.core, {imported.graph.inputs[0].name: ids[:, :6]}, imported.tensors)
    np.testing.assert_allclose(found["output"], wanted[:, :6], 1e-4, 1e-4)
