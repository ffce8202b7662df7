"""Every entry of the table against torch itself, at sizes other than those traced."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import mmc.frontends.models.operators  # noqa: F401  # pyright: ignore[reportUnusedImport]
from mmc.errors import MmcError
from mmc.frontends import fx_graph
from mmc.frontends.aten import TABLE, translation
from mmc.frontends.base import Imported
from mmc.frontends.torch_export import import_module
from mmc.frontends.torch_types import array_of
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph
from mmc.ir.text import parse, render
from tests.frontends.aten_cases import CASES, SPELT_OUT, Case, Inputs, example

B = Dim("B", min=1, max=64)
DYNAMIC = {
    **{name: {0: B, 1: Dim("T", min=4, max=64)} for name in ("x", "y", "half", "i", "j", "b")},
    **{name: {0: B} for name in ("stack", "q", "k")},
}


class Cases(nn.Module):
    def __init__(self, cases: dict[str, Case]) -> None:
        super().__init__()
        self.cases = cases

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = Inputs(given)
        return {name: case(inputs) for name, case in self.cases.items()}


def import_cases(cases: dict[str, Case]) -> Imported:
    given = example(2, 5)
    shapes = {name: DYNAMIC.get(name) for name in given}
    return import_module(Cases(cases), (given,), (shapes,), input_names=list(given))


Results = tuple[dict[str, np.ndarray], dict[str, Tensor]]


def both_results(imported: Imported, cases: dict[str, Case]) -> Results:
    given = example(3, 7, seed=1)
    arrays = {name: array_of(tensor) for name, tensor in given.items()}
    with torch.no_grad():
        return evaluate(imported.graph, arrays, imported.tensors), Cases(cases)(given)


def check(name: str, results: Results) -> None:
    found, wanted = results[0][name], array_of(results[1][name])
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    if wanted.dtype.kind in "iub":
        np.testing.assert_array_equal(found, wanted)
    else:
        tolerance = 1e-2 if wanted.dtype.itemsize == 2 else 1e-5
        found, wanted = found.astype(np.float32), wanted.astype(np.float32)
        np.testing.assert_allclose(found, wanted, tolerance, tolerance)


@pytest.fixture(scope="module")
def looked_up() -> set[str]:
    return set()


@pytest.fixture(scope="module")
def imported(looked_up: set[str]) -> Iterator[Imported]:
    def record(name: str) -> object:
        looked_up.add(name if name in TABLE else name.rpartition(".")[0])
        return translation(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fx_graph, "translation", record)
        yield import_cases(CASES)


@pytest.fixture(scope="module")
def results(imported: Imported) -> Results:
    return both_results(imported, CASES)


@pytest.mark.parametrize("name", CASES)
def test_like_torch(name: str, results: Results) -> None:
    check(name, results)


@pytest.fixture(scope="module")
def spelt_out() -> Results:
    return both_results(import_cases(SPELT_OUT), SPELT_OUT)


@pytest.mark.parametrize("name", SPELT_OUT)
def test_spelt_out_by_torch(name: str, spelt_out: Results) -> None:
    check(name, spelt_out)


def test_every_entry_is_used(imported: Imported, looked_up: set[str]) -> None:
    assert imported.kind == "module"
    assert set(TABLE) - looked_up == set()


def test_text_form(imported: Imported) -> None:
    assert parse(render(imported.graph)) is imported.graph


def test_detach_is_kept(imported: Imported) -> None:
    """A straight-through estimator is stripped by its mark: the mark must survive."""
    output = dict(imported.graph.outputs)["detach"]
    assert "detach" in {op.mnemonic for op in Graph("behind", (), (("detach", output),))}


def test_unknown_operation_says_where() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.qr(x)[0]

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Inner()

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x)

    with pytest.raises(MmcError, match=r"linalg_qr.* has no translation") as caught:
        import_module(Outer(), (torch.randn(3, 3),))
    assert "block, test_aten.py:" in caught.value.where
    assert "aten.py" in caught.value.hint
