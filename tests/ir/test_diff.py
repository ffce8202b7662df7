"""The diff of one change stays local."""

from __future__ import annotations

from mmc.ir.diff import diff
from mmc.ir.graph import graph_of
from mmc.ir.op import Op, Origin, Value, origin
from mmc.ir.ops.pointwise import Abs, Exp, Neg
from mmc.ir.ops.source import Input
from mmc.ir.types import DType, TensorType

X = Input("x", TensorType(DType.F32, (4,)))


def layers(odd: type[Op]) -> Value:
    value: Value = X
    for n in range(6):
        with origin(Origin(f"layers.{n}")):
            value = Abs(odd(value) if n == 3 else Neg(value))  # pyright: ignore[reportCallIssue]
    return value


def test_equal_graphs_have_no_diff() -> None:
    assert diff(graph_of("g", {"y": Neg(X)}), graph_of("g", {"y": Neg(X)})) == ""


def test_a_change_shows_the_lines_that_changed() -> None:
    shown = diff(graph_of("g", {"y": Neg(X)}), graph_of("g", {"y": Exp(X)})).splitlines()
    assert shown[:2] == ["--- before", "+++ after"]
    assert [line for line in shown[2:] if line.startswith("-")] == [
        "-  %neg = neg(%x) : f32[4]",
        "-  return y=%neg",
    ]
    assert "+  %exp = exp(%x) : f32[4]" in shown


def test_a_change_in_one_layer_renames_nothing_in_another() -> None:
    before, after = graph_of("g", {"y": layers(Neg)}), graph_of("g", {"y": layers(Exp)})
    changed = [line for line in diff(before, after).splitlines()[2:] if line[0] in "+-"]
    assert len(changed) == 4
    assert all("layers.3" in line for line in changed)
    assert len(diff(before, after, context=3).splitlines()) > len(diff(before, after).splitlines())
