"""Compile what `python -m benchmarks.cuda` runs, where TVM is; the folder then goes to the GPU.

    python -m benchmarks.cuda.prepare FOLDER [--models 370m,1.3b]

A model of a shape is built without weights: random ones are made beside the GPU.  Besides there are
`kernels` (products and a recurrence alone) and the example with the interpreter's answers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

import mmc
from benchmarks.cuda.shapes import SHAPES, Shape, graphs
from mmc.artifact import Artifact
from mmc.ir.graph import Graph, graph_of
from mmc.ir.intern import own_world
from mmc.ir.op import Value
from mmc.ir.ops.pointwise import Mul, Sigmoid, Silu, Sub
from mmc.ir.ops.recurrence import Kernel, LinearRecurrence
from mmc.ir.ops.source import Input, Weight, scalar
from mmc.ir.ops.ternary import TernaryMatmul
from mmc.ir.packing import Layout, packed_bytes
from mmc.ir.statistics import statistics
from mmc.ir.tensors import Tensors
from mmc.ir.text import render
from mmc.ir.types import DType, TensorType, symbol
from mmc.targets.base import BuildOptions, graph_file
from mmc.targets.registry import load_target

EXAMPLE = Path(__file__).parents[2] / "examples" / "mmfree-9m"
COLD_BYTES = 160e6
"""Weights that follow one another: more than a cache holds, so that each comes from memory."""

LAYOUTS: tuple[Layout, ...] = ("2bit", "1.6bit")

LARGEST = "13b"
GATE = f"gate-{LARGEST}"
FACTS = "prepared.json"
ANSWERS = "answers.npz"
AS_IT_IS = "model"
"""Names what the interpreter says of the example as it is, without what is done for a GPU."""

NEW_TOKENS, POSITIONS = 128, 64

EXAMPLES = {"2bit-bf16": ("2bit", None), "1.6bit-int8": ("1.6bit", "int8")}
"""How the example is compiled: its weights and the embedding."""


def copies(matrices: tuple[tuple[int, int], ...], layout: Layout) -> int:
    """How many sets of packed matrices are more than a cache holds."""
    return -(-int(COLD_BYTES) // sum(packed_bytes(n, k, layout) for n, k in matrices))


def products(name: str, matrices: tuple[tuple[int, int], ...], layout: Layout) -> Graph:
    """Sets of matrices, one behind the other, times int8 [rows, columns]."""
    rows, outputs = symbol("rows"), dict[str, Value]()
    for copy in range(copies(matrices, layout)):
        for n, k in matrices:
            packed = TensorType(DType.packed(layout), (n, k))
            q, w = Input(f"q{k}", TensorType(DType.I8, (rows, k))), Input("w", packed)
            body = graph_of("ternary_matmul", {"acc": TernaryMatmul(Input("q", q.type), w)})
            weight = Weight(f"{name}.{n}x{k}.{copy}", packed)
            outputs[f"acc{len(outputs)}"] = Kernel((q, weight), body).results[0]
    return graph_of(name, outputs)


def recurrence(name: str, width: int) -> Graph:
    """The recurrence of a layer with its gates, h' = f h + (1 - f) silu(c), and h silu(g)."""
    shape = (symbol("B"), symbol("T"), width)
    f, c, g = (Input(key, TensorType(DType.F32, shape)) for key in "fcg")
    h0 = Input("h0", TensorType(DType.F32, (symbol("B"), width)))
    gate = Sigmoid(f)
    h = LinearRecurrence(gate, Mul(Sub(scalar(1.0), gate), Silu(c)), h0)
    body = graph_of("mlgru", {"o": Mul(h, Silu(g))})
    return graph_of(name, {"o": Kernel(tuple(body.inputs), body).results[0]})


def kernels(chosen: Mapping[str, Shape]) -> dict[str, Graph]:
    """A layer's matrices and a recurrence for each shape, and the gate of the largest alone."""
    made: dict[str, Graph] = {}
    for key, shape in distinct(chosen).items():
        made[f"scan-{key}"] = recurrence(f"scan-{key}", shape.width)
    for (key, layout), matrices in sets(chosen).items():
        made[f"{key}-{layout}"] = products(f"{key}-{layout}", matrices, layout)
    return made


def distinct(chosen: Mapping[str, Shape]) -> dict[str, Shape]:
    """One of the shapes that differ in how their weights are kept."""
    return {name: shape for name, shape in chosen.items() if shape == shape.sizes}


def sets(chosen: Mapping[str, Shape]) -> dict[tuple[str, Layout], tuple[tuple[int, int], ...]]:
    """Matrices that are multiplied, by name and layout."""
    layers = {f"layer-{key}": shape.matrices for key, shape in distinct(chosen).items()}
    if LARGEST in chosen:
        layers[GATE] = (chosen[LARGEST].matrices[2],)
    return {(key, layout): each for key, each in layers.items() for layout in LAYOUTS}


def write(
    folder: Path, mcpu: str | None, built: Mapping[str, Graph], more: Mapping[str, Graph]
) -> None:
    """Build some graphs; more graphs lie beside them for what they tell."""
    folder.mkdir(parents=True)
    for name, graph in {**more, **built}.items():
        (folder / graph_file(name)).write_text(render(graph))
    facts = load_target("cuda").build(built, Tensors(), folder, _say, BuildOptions(mcpu))
    counted = next(iter((more or built).values()))
    record = {
        "kind": "causal_lm", "target": "cuda", "entries": list(built), "built": dict(facts.facts),
        "eos_token_ids": [], "sizes": {"weight_bytes": statistics(counted).weight_bytes},
        "vocab_size": max((s.vocabulary for s in SHAPES.values()), default=0),
    }  # fmt: skip
    (folder / FACTS).write_text(json.dumps(record))


def write_shape(folder: Path, mcpu: str | None, shape: Shape) -> None:
    """The entries that continue a text; the graph of all positions is only described."""
    with own_world():
        made = graphs(shape, load_target("cuda"))
        forward = made.pop("forward")
        write(folder, mcpu, made, {"forward": forward})


def write_example(folder: Path, mcpu: str | None) -> None:
    """The example for a GPU, and what the interpreter says of it."""
    said: dict[str, np.ndarray] = {}
    for name, (weights, embedding) in EXAMPLES.items():
        made = mmc.compile(
            EXAMPLE, target="cuda", weights=weights, embedding=embedding, mcpu=mcpu,
            out=folder / name,
        )  # fmt: skip
        said |= _said(name, made)
    with tempfile.TemporaryDirectory() as temporary:
        made = mmc.compile(EXAMPLE, target="reference", out=Path(temporary, "reference"))
        said |= _said(AS_IT_IS, made)
    np.savez(folder / ANSWERS, allow_pickle=False, **said)


def _said(name: str, made: Artifact) -> dict[str, np.ndarray]:
    """What the interpreter makes of an artefact's graphs, whatever they were compiled for."""
    run = load_target("reference").load(made.path, made.manifest["entries"], {})
    model = mmc.Model(made, run)
    model.eos_token_ids = frozenset()
    ids = np.random.default_rng(0).integers(0, model.vocab_size, (1, POSITIONS))
    tokens = model.generate(ids[:, :16], NEW_TOKENS)
    return {"ids": ids, f"{name}.logits": model.forward(ids), f"{name}.tokens": tokens}


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default=",".join(SHAPES), help="some of these")
    parser.add_argument("--mcpu", help="for one architecture, such as sm_90a")
    given = parser.parse_args()
    chosen = {name: SHAPES[name] for name in given.models.split(",")}
    mcpu: str | None = given.mcpu
    parts: dict[str, Callable[[Path], None]] = {
        "example": lambda folder: write_example(folder, mcpu),
        "kernels": lambda folder: write(folder, mcpu, kernels(chosen), {}),
        **{n: lambda f, s=shape: write_shape(f, mcpu, s) for n, shape in chosen.items()},
    }
    for name, make in parts.items():
        if not (given.folder / name).is_dir():
            _say(name)
            make(given.folder / name)


if __name__ == "__main__":
    main()
