"""Scan, Loop and If: recurrences found, or named with what breaks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mmc.errors import MmcError
from mmc.ir.types import symbol
from tests.frontends.onnx_models import F32, RNG, error, imported, interpreted, node, runtime, write

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
A = RNG.random((2, 7, 5)).astype(F32)
B = RNG.standard_normal((2, 7, 5)).astype(F32)
H = RNG.standard_normal((2, 5)).astype(F32)
SEQUENCES = {"a": (2, "T", 5), "b": (2, "T", 5), "h": (2, 5)}
LAST_AND_ALL = {"last": 2, "y": 3}
U = RNG.standard_normal((5, 5)).astype(F32)


def graph(name: str, nodes: Any, inputs: Any, outputs: Any) -> onnx.GraphProto:
    def value(each: tuple[str, int, Any]) -> Any:
        return helper.make_tensor_value_info(*each)

    return helper.make_graph(nodes, name, list(map(value, inputs)), list(map(value, outputs)))


AFFINE = [node("Mul", ["at", "hin"], ["ah"]), node("Add", ["ah", "bt"], ["hout"])]
BODIES = {
    "h' = a*h + b": (AFFINE, True, ""),
    "tanh of the state": (
        [node("Tanh", ["hin"], ["th"]), node("Mul", ["at", "th"], ["ah"]),
         node("Add", ["ah", "bt"], ["hout"])],
        False, "tanh",
    ),
    "a matrix times the state": (
        [node("MatMul", ["hin", "u"], ["uh"]), node("Mul", ["at", "uh"], ["ah"]),
         node("Add", ["ah", "bt"], ["hout"])],
        False, "dense",
    ),
    "a gate of the state": (
        [node("Sigmoid", ["hin"], ["g"]), node("Mul", ["g", "hin"], ["ah"]),
         node("Add", ["ah", "bt"], ["hout"])],
        False, "nonlinear",
    ),
}  # fmt: skip


def scan(path: Path, steps: list[onnx.NodeProto], **attributes: Any) -> Path:
    step = [2, 5]
    body = graph(
        "body",
        [*steps, node("Identity", ["hout"], ["yt"])],
        [("hin", FLOAT, step), ("at", FLOAT, step), ("bt", FLOAT, step)],
        [("hout", FLOAT, step), ("yt", FLOAT, step)],
    )
    made = node("Scan", ["h", "a", "b"], ["last", "y"], name="memory", body=body,
                num_scan_inputs=2, scan_input_axes=[1, 1], **attributes)  # fmt: skip
    return write(path, [made], {"u": U}, inputs=SEQUENCES, outputs=LAST_AND_ALL)


@pytest.mark.parametrize("name", BODIES)
def test_scan(name: str, tmp_path: Path) -> None:
    steps, linear, why = BODIES[name]
    path = scan(tmp_path / "m.onnx", steps, scan_output_axes=[1])
    done = imported(path)
    [found] = done.recurrences
    assert found.linear == linear
    assert found.name == "memory"
    assert why in found.why
    given = [A, B, H]
    for mine, theirs in zip(interpreted(done, *given), runtime(path, *given), strict=True):
        assert error(mine, theirs) <= 1e-6


def test_scan_over_other_axes_and_backwards(tmp_path: Path) -> None:
    attributes = {"scan_input_directions": [1, 1], "scan_output_directions": [1]}
    path = scan(tmp_path / "m.onnx", AFFINE, **attributes)
    done = imported(path)
    assert [r.linear for r in done.recurrences] == [True]
    for mine, theirs in zip(interpreted(done, A, B, H), runtime(path, A, B, H), strict=True):
        assert error(mine, theirs) <= 1e-6


def loop(path: Path, *, stops: bool = False, listed: bool = False) -> Path:
    """For t in range(T): h = a[:, t] * h + b[:, t]; the number of steps is read off the shape."""
    still = node("Identity", ["go"], ["small"])
    steps = [
        node("Gather", ["a", "t"], ["at"], axis=1),
        node("Gather", ["b", "t"], ["bt"], axis=1),
        *AFFINE,
        node("ReduceMax", ["hout"], ["most"], keepdims=0),
        node("Less", ["most", "limit"], ["small"]) if stops else still,
    ]
    inputs = [("t", INT, []), ("go", BOOL, []), ("hin", FLOAT, [2, 5])]
    outputs = [("small", BOOL, []), ("hout", FLOAT, [2, 5])]
    results = ["last", "y0"]
    given = ["count", "yes", "h"]
    before = [
        node("Shape", ["a"], ["size"], start=1, end=2),
        node("Squeeze", ["size"], ["count"]),
    ]
    after = [node("Transpose", ["y0"], ["y"], perm=[1, 0, 2])]
    if listed:
        steps.append(node("SequenceInsert", ["before", "hout"], ["after"]))
        before.append(node("SequenceEmpty", [], ["none"]))
        given.append("none")
        after = [node("ConcatFromSequence", ["y0"], ["y"], axis=1, new_axis=1)]
    else:
        steps.append(node("Identity", ["hout"], ["yt"]))
        outputs.append(("yt", FLOAT, [2, 5]))
    body = graph("body", steps, inputs, outputs)
    if listed:
        listing = helper.make_tensor_sequence_value_info
        body.input.append(listing("before", FLOAT, [2, 5]))
        body.output.append(listing("after", FLOAT, [2, 5]))
    made = node("Loop", given, results, name="memory", body=body)
    weights = {"yes": np.array(True), "limit": F32(1e9)}
    nodes = [*before, made, *after]
    return write(path, nodes, weights, inputs=SEQUENCES, outputs=LAST_AND_ALL)


@pytest.mark.parametrize("listed", [False, True])
def test_loop_is_a_recurrence(listed: bool, tmp_path: Path) -> None:
    """Also where it appends to a list, as exporters write Python's loops."""
    path = loop(tmp_path / "m.onnx", listed=listed)
    done = imported(path)
    [found] = done.recurrences
    assert found.linear, found.why
    assert done.core.outputs[1][1].type.shape == (2, symbol("T"), 5)
    for mine, theirs in zip(interpreted(done, A, B, H), runtime(path, A, B, H), strict=True):
        assert error(mine, theirs) <= 1e-6


def test_loop_that_ends_by_its_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MmcError, match="ends by what it computes") as caught:
        imported(loop(tmp_path / "m.onnx", stops=True))
    assert "node 'memory'" in caught.value.where


def test_loop_that_counts(tmp_path: Path) -> None:
    """A body that reads no sequence: it still knows the number of its step."""
    body = graph(
        "body",
        [node("Cast", ["t"], ["f"], to=FLOAT), node("Add", ["s", "f"], ["s2"]),
         node("Identity", ["go"], ["on"])],
        [("t", INT, []), ("go", BOOL, []), ("s", FLOAT, ["B", 4])],
        [("on", BOOL, []), ("s2", FLOAT, ["B", 4])],
    )  # fmt: skip
    made = node("Loop", ["n", "", "x"], ["y"], body=body)
    path = write(tmp_path / "m.onnx", [made], {"n": np.array(5)}, inputs={"x": ("B", 4)})
    x = RNG.standard_normal((3, 4)).astype(F32)
    done = imported(path)
    assert error(interpreted(done, x)[0], runtime(path, x)[0]) <= 1e-6


@pytest.mark.parametrize("known", [True, False])
def test_if(known: bool, tmp_path: Path) -> None:
    """Of a condition that is known one branch is left, else both and a choice."""
    branches: dict[str, Any] = {
        "then_branch": graph("yes", [node("Neg", ["x"], ["p"])], [], [("p", FLOAT, None)]),
        "else_branch": graph("no", [node("Exp", ["x"], ["q"])], [], [("q", FLOAT, None)]),
    }
    condition = [
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Less", ["most", "zero"], ["c"]),
    ]
    if known:
        condition = [node("Less", ["one", "zero"], ["c"])]
    nodes = [*condition, node("If", ["c"], ["y"], **branches)]
    weights = {"zero": F32(0), "one": F32(1)}
    path = write(tmp_path / "m.onnx", nodes, weights, inputs={"x": ("B", 4)})
    done = imported(path)
    kinds = {op.mnemonic for op in done.core}
    assert ("neg" in kinds) == (not known)
    for x in (np.full((2, 4), -1.5, F32), np.full((2, 4), 1.5, F32)):
        assert error(interpreted(done, x)[0], runtime(path, x)[0]) <= 1e-6
