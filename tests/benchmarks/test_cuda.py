"""The benchmark of the CUDA target, as far as it goes without a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.cpu import document
from benchmarks.cuda.__main__ import DOCUMENT, SECTIONS
from benchmarks.cuda.models import RandomWeights
from benchmarks.cuda.prepare import copies, products
from benchmarks.cuda.shapes import SHAPES, Shape, graphs
from benchmarks.make_random_model import write
from mmc.driver import REWRITE, analyse, entries
from mmc.frontends.checkpoint import load
from mmc.ir.packing import unpack
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


def test_random_weights_are_ternary_and_finite(tmp_path: Path) -> None:
    graph = graphs(SMALL, load_target("cuda"))["token"]
    write_weights(tmp_path / "weights", list(graph.weights), RandomWeights(list(graph.weights)))
    file = WeightsFile.open(tmp_path / "weights")
    packed = [weight for weight in graph.weights if weight.type.dtype.layout is not None]
    assert packed
    for weight in graph.weights:
        if weight in packed:
            n, k = weight.type.shape
            assert isinstance(n, int)
            assert isinstance(k, int)
            trits = unpack(file.array(weight), n, k, "2bit")
            assert set(np.unique(trits).tolist()) == {-1, 0, 1}
        else:
            assert np.isfinite(file.array(weight).astype(np.float32)).all()


def test_sets_of_matrices_do_not_fit_a_cache() -> None:
    for shape in SHAPES.values():
        graph = products("layer", shape.matrices)
        assert len(graph.outputs) == copies(shape.matrices) * len(shape.matrices)
        assert copies(shape.matrices) * sum(n * k for n, k in shape.matrices) / 4 >= 150e6
