"""The benchmark of the CUDA target, as far as it goes without a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cpu import document
from benchmarks.cuda.__main__ import DOCUMENT, SECTIONS
from benchmarks.cuda.models import RandomWeights
from benchmarks.cuda.prepare import copies, distinct, products, sets
from benchmarks.cuda.shapes import SHAPES, Shape, graphs
from benchmarks.make_random_model import write
from mmc.driver import REWRITE, analyse, entries
from mmc.frontends.checkpoint import load
from mmc.ir.packing import packed_bytes, unpack
from mmc.ir.text import render
from mmc.passes.registry import load_pass
from mmc.targets.registry import load_target
from mmc.targets.weights_file import WeightsFile, write_weights

SMALL = Shape(64, 2, 100)


def test_the_document_has_a_place_for_every_section() -> None:
    assert document.missing(DOCUMENT.read_text(), tuple(SECTIONS)) == []


def test_a_shape_alone_gives_the_graphs_of_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, SMALL.width, SMALL.layers, SMALL.vocabulary)
    target = load_target("cuda")
    done = analyse(load(tmp_path))
    rest = [load_pass(name) for name in (*REWRITE, "fold-constants")]
    core = done.manager.run(done.core, [*rest, load_pass("pack-ternary", {"layout": "2bit"})])
    wanted = {
        name: render(done.manager.run(start.renamed(name), passes))
        for name, start, passes in entries("causal_lm", core, target)
    }
    found = graphs(SMALL, target)
    assert {name: render(graph) for name, graph in found.items()} == wanted


@pytest.mark.parametrize("shape", [SMALL, replace(SMALL, weights="1.6bit", embedding="int8")])
def test_random_weights_are_ternary_and_finite(shape: Shape, tmp_path: Path) -> None:
    graph = graphs(shape, load_target("cuda"))["token"]
    write_weights(tmp_path / "weights", list(graph.weights), RandomWeights(list(graph.weights)))
    file = WeightsFile.open(tmp_path / "weights")
    packed = [weight for weight in graph.weights if weight.type.dtype.layout is not None]
    assert packed
    for weight in graph.weights:
        if weight in packed:
            n, k = weight.type.shape
            assert isinstance(n, int)
            assert isinstance(k, int)
            layout = weight.type.dtype.layout
            assert layout is not None
            assert layout == shape.weights
            trits = unpack(file.array(weight), n, k, layout)
            assert set(np.unique(trits).tolist()) == {-1, 0, 1}
        else:
            assert np.isfinite(file.array(weight).astype(np.float32)).all()


def test_sets_of_matrices_do_not_fit_a_cache() -> None:
    chosen = sets(SHAPES)
    assert len(chosen) == 2 * (len(distinct(SHAPES)) + 1)
    for (name, layout), matrices in chosen.items():
        graph = products(name, matrices, layout)
        assert len(graph.outputs) == copies(matrices, layout) * len(matrices)
        size = sum(packed_bytes(n, k, layout) for n, k in matrices)
        assert copies(matrices, layout) * size >= 150e6
