"""Weights of 1.6 bits in CUDA code: what is built from them, where no GPU is needed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mmc
from benchmarks.cuda.shapes import Shape, graphs
from mmc.driver import CompileOptions, refuse_early
from mmc.errors import MmcError
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType
from mmc.targets.base import BuildOptions
from mmc.targets.cuda.build import generate
from mmc.targets.cuda.launches import from_json
from mmc.targets.cuda.products import KINDS
from mmc.targets.cuda.tuning import Tuning
from mmc.targets.registry import load_target
from mmc.targets.tvm.plan import Plan
from tests.end_to_end.test_modules import BitStack
from tests.folders import workspace
from tests.gpu.prepared import product_graph

SMALL = Shape(64, 2, 96)


@pytest.fixture(scope="module")
def dense() -> Path:
    """A product with a matrix of 1.6 bits, built."""
    folder = workspace() / "product-dense"
    folder.mkdir()
    graphs = {"p": product_graph("p", 100, 300, "1.6bit")}
    load_target("cuda").build(graphs, Tensors(), folder, lambda _: None, BuildOptions())
    return folder


@pytest.mark.parametrize("name", ["sm_80", "sm_90a"])
def test_there_is_code_for_every_kind_of_product(dense: Path, name: str) -> None:
    code = (dense / "lib" / f"{name}.cubin").read_bytes()
    made = set(re.findall(rb"ternary_([a-z]+)_\d+_\d+_1_6bit_kernel\0", code))
    assert made == {kind.name.encode() for kind in KINDS}
    assert b"2bit_kernel" not in code
    assert b"mmc_recode\0" in code


def test_only_products_of_few_rows_wait_themselves(dense: Path) -> None:
    entries = from_json((dense / "lib" / "launches.json").read_text())
    groups = (group for entry in entries.values() for group in entry.groups)
    waiting = {x.kernel: x.waits for group in groups for c in group for x in c.launches}
    assert waiting == {name: name.startswith(("ternary_few", "ternary_two")) for name in waiting}


@pytest.mark.parametrize("layout", ["2bit", "1.6bit"])
def test_a_token_is_one_launch(layout: str) -> None:
    plan = Plan(graphs(replace(SMALL, weights=layout), load_target("cuda"))["token"])
    made = generate({"token": plan}, "sm_90a", Tuning()).launches["token"]
    assert made.persistent is not None
    assert made.groups


def test_a_row_is_multiplied_with_matrices_of_one_layout_at_once() -> None:
    """Auto chooses for all of them together: else a token could not be one launch."""
    found = graphs(replace(SMALL, weights="auto"), load_target("cuda"))["token"]
    layouts = {weight.type.dtype.layout for weight in found.weights} - {None}
    assert layouts == {"2bit"}


def test_auto_is_what_is_taken(tmp_path: Path) -> None:
    out, given = tmp_path / "out", (torch.ones(3, 24),)
    graph = mmc.compile(BitStack().eval(), given, target="cuda:sm_80", out=out).graph()
    assert {w.type.dtype for w in graph.weights if w.type.dtype.layout} == {DType.TERNARY_2BIT}


def test_another_layout_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(MmcError) as error:
        refuse_early(tmp_path / "out", CompileOptions("cuda", weights="1.67bit"))
    assert "no weight layout '1.67bit'" in str(error.value)
    assert "one of auto, 2bit, 1.6bit" in str(error.value)
