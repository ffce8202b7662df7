"""The node cases that come with the onnx package: every operator that we claim, held to them.

A case passes, or is refused with an error that says why: an element type that the IR lacks, or a
form of the operator that has no translation.  The counts are printed (`pytest -rP`).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mmc.errors import MmcError
from mmc.frontends.onnx_control import CONTROL
from mmc.frontends.onnx_import import load_onnx
from mmc.frontends.onnx_table import TABLE
from mmc.ir.evaluate import evaluate
from mmc.ir.intern import own_world

CLAIMED = {name for name in {*TABLE, *CONTROL} if "." not in name}
NO_CASES = {
    "ConcatFromSequence", "Conv", "Loop", "ReduceLogSumExp", "ReduceProd", "SequenceConstruct",
    "SequenceEmpty", "SequenceInsert", "SimplifiedLayerNormalization",
}  # fmt: skip
"""Operators whose cases are all of another form or element type: they have tests of their own."""


@dataclass(frozen=True)
class Case:
    name: str
    model: Any
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    tolerance: tuple[float, float]


@cache
def cases() -> list[Case]:
    """Those of tensors alone that consist of operators of the tables."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx's own: numpy's overflows in its samples
        from onnx.backend.test.case.node import collect_testcases

        collected: list[Any] = collect_testcases(None)
    found: list[Case] = []
    for case in collected:
        if not {n.op_type for n in case.model.graph.node} <= CLAIMED:
            continue
        for inputs, outputs in case.data_sets or ():
            if all(isinstance(a, np.ndarray | np.generic) for a in [*inputs, *outputs]):
                arrays = [np.asarray(a) for a in inputs], [np.asarray(a) for a in outputs]
                found.append(Case(case.name, case.model, *arrays, (case.rtol, case.atol)))
    return found


def with_shapes_known(case: Case) -> Case:
    """Integer inputs behind the first are shapes and axes, which models hold as initialisers."""
    model, kept = onnx.ModelProto(), list[np.ndarray]()
    model.CopyFrom(case.model)
    del model.graph.input[:]
    for i, (value, content) in enumerate(zip(case.model.graph.input, case.inputs, strict=False)):
        every = case.model.graph.node[0].op_type in ("ConstantOfShape", "Range", "Loop")
        if (content.dtype.kind in "iub" and (i or every)) or every:
            model.graph.initializer.append(numpy_helper.from_array(content, value.name))
        else:
            model.graph.input.append(value)
            kept.append(content)
    return Case(case.name, model, kept, case.outputs, case.tolerance)


def result(case: Case, folder: Path) -> str:
    """passed, the reason why it was refused, or wrong."""
    file = folder / "case.onnx"
    file.write_bytes(case.model.SerializeToString())
    try:
        imported = load_onnx(file)
    except MmcError as error:
        if (
            "must be known" in error.what
            and (other := with_shapes_known(case)).inputs != case.inputs
        ):
            return result(other, folder)
        return error.what
    names = [op.name for op in imported.graph.inputs]
    given = dict(zip(names, case.inputs, strict=True))
    made = list(evaluate(imported.graph, given, imported.tensors).values())
    pairs = zip(made, case.outputs, strict=True)
    wrong = [f"wrong: {found} is not {wanted}" for found, wanted in pairs
             if not same(found, wanted, case.tolerance)]  # fmt: skip
    return wrong[0] if wrong else "passed"


def same(found: np.ndarray, wanted: np.ndarray, tolerance: tuple[float, float]) -> bool:
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        return False
    if wanted.dtype.kind in "iub":
        return np.array_equal(found, wanted)
    wide = found.astype(float), wanted.astype(float)
    return np.allclose(*wide, *tolerance, equal_nan=True)


@pytest.fixture(scope="module", name="results")
def all_results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("nodes")
    with own_world():
        yield {case.name: result(case, folder) for case in cases()}


def test_every_case_passes_or_says_why(results: dict[str, str]) -> None:
    reasons = Counter(
        "passed" if why == "passed" else "element type" if "element type" in why else "form"
        for why in results.values()
    )
    told = (
        f"operators claimed: {len(CLAIMED)}; cases of them: {len(results)}; passed: "
        f"{reasons['passed']}; refused for an element type: {reasons['element type']}, "
        f"for a form: {reasons['form']}"
    )
    print(told)  # noqa: T201
    assert reasons["passed"] >= 700
    assert reasons["form"] <= 90
    assert {name: why for name, why in results.items() if why.startswith("wrong")} == {}


@pytest.mark.parametrize("op", sorted(CLAIMED - NO_CASES))
def test_operator_passes_a_case(op: str, results: dict[str, str]) -> None:
    """Every operator that is claimed passes at least one case."""
    of_it = [case for case in cases() if op in {n.op_type for n in case.model.graph.node}]
    assert any(results[case.name] == "passed" for case in of_it), [c.name for c in of_it]
