"""Shapes that a graph computes, with sizes that are not known: equal to onnxruntime at any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from mmc.errors import MmcError
from mmc.frontends.onnx_sizes import divide
from mmc.ir.types import parse_dim
from tests.frontends.onnx_models import F32, RNG, error, imported, interpreted, node, runtime, write

B = node("Shape", ["x"], ["b"], start=0, end=1)
T = node("Shape", ["x"], ["t"], start=1, end=2)
NUMBERS: Mapping[str, Any] = {
    "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "four": np.array([4]),
    "minus": np.array([-1]), "end": np.array([2**63 - 1]), "start": np.array([-(2**63) + 1]),
    "flat": np.array([-1, 8]), "keep": np.array([0, -1]), "o": np.array(1), "z": np.array(0),
    "ends": np.array([-2, 0]), "row": RNG.standard_normal(8).astype(F32),
}  # fmt: skip


def cut(start: str, end: str, step: str = "one", axis: str = "one") -> list[Any]:
    return [node("Slice", ["x", start, end, axis, step], ["y"])]


CASES: dict[str, Sequence[Any]] = {
    "heads": [B, T, node("Concat", ["b", "t", "two", "four"], ["s"], axis=0),
              node("Reshape", ["x", "s"], ["y"])],
    "rows": [node("Reshape", ["x", "flat"], ["y"])],
    "keep and infer": [node("Reshape", ["x", "keep"], ["y"])],
    "flatten": [node("Flatten", ["x"], ["y"], axis=2)],
    "arithmetic": [B, T, node("Mul", ["b", "t"], ["bt"]), node("Div", ["bt", "b"], ["again"]),
                   node("Concat", ["bt", "four", "two"], ["s0"], axis=0),
                   node("Reshape", ["x", "s0"], ["r"]),
                   node("Concat", ["again", "minus"], ["s"], axis=0),
                   node("Reshape", ["r", "s"], ["y"])],
    "last": cut("minus", "end"),
    "but the first": cut("one", "end"),
    "but the last": cut("zero", "minus"),
    "backwards": cut("minus", "start", "minus"),
    "every other of a known axis": cut("zero", "end", "two", "two"),
    "first": [node("Gather", ["x", "z"], ["y"], axis=1)],
    "from the end": [node("Gather", ["x", "ends"], ["y"], axis=1)],
    "halves": [node("Split", ["x"], ["y", "w"], axis=2, num_outputs=2)],
    "expand": [B, T, node("Concat", ["b", "t", "one"], ["s"], axis=0),
               node("Expand", ["row", "s"], ["y"])],
    "tile": [T, node("Concat", ["one", "one", "two"], ["s"], axis=0),
             node("Tile", ["x", "s"], ["y"])],
    "causal mask": [T, node("Squeeze", ["t"], ["n"]), node("Range", ["z", "n", "o"], ["i"]),
                    node("Unsqueeze", ["i", "one"], ["j"]), node("LessOrEqual", ["i", "j"], ["m"]),
                    node("Cast", ["m"], ["y"], to=TensorProto.FLOAT)],
    "zeros": [node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["c"]),
              node("Add", ["x", "c"], ["y"])],
    "size as a number": [T, node("Cast", ["t"], ["f"], to=TensorProto.FLOAT),
                         node("Div", ["x", "f"], ["y"])],
    "size": [node("Size", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
             node("Add", ["x", "f"], ["y"])],
}  # fmt: skip


RANKS = {"heads": 4, **dict.fromkeys(
    ["rows", "keep and infer", "flatten", "arithmetic", "first", "causal mask"], 2
)}  # fmt: skip


def model(path: Path, nodes: Sequence[Any], rank: int = 3) -> Path:
    weights = {k: v for k, v in NUMBERS.items() if any(k in n.input for n in nodes)}
    given = {"x": ("B", "T", 8)}
    return write(path / "m.onnx", nodes, weights, inputs=given, outputs={"y": rank}, opset=20)


@pytest.mark.parametrize("name", CASES)
def test_like_onnxruntime(name: str, tmp_path: Path) -> None:
    path = model(tmp_path, CASES[name], RANKS.get(name, 3))
    done = imported(path)
    for shape in ((2, 5, 8), (3, 4, 8)):
        x = RNG.standard_normal(shape).astype(F32)
        assert error(interpreted(done, x)[0], runtime(path, x)[0]) <= 1e-6


def test_an_end_that_may_lie_outside_is_refused(tmp_path: Path) -> None:
    """x[:, :4] takes four elements or fewer: which, no size says."""
    with pytest.raises(MmcError, match="fix that size"):
        imported(model(tmp_path, cut("zero", "four")))


@pytest.mark.parametrize(
    ("size", "by", "expected"),
    [
        ("B*T", "B", "T"), ("8*B*T", "4*T", "2*B"), ("B*T+2*B", "B", "T+2"), ("6", "3", "2"),
        ("B*T+2", "B", None), ("3*B", "2", None), ("B", "B+1", None), ("B", "0", None),
    ],
)  # fmt: skip
def test_division_of_sizes(size: str, by: str, expected: str | None) -> None:
    found = divide(parse_dim(size), parse_dim(by))
    assert (None if found is None else str(found)) == expected
