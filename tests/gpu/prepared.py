"""What the GPU tests run.  It is compiled here, or elsewhere and carried along.

A machine with a GPU may have no TVM.  Then compile where there is one, and name the folder:

    python -m tests.gpu.prepared FOLDER
    MMC_GPU_PREPARED=FOLDER pytest -m gpu tests/gpu
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import mmc
from mmc.ir.graph import Graph, graph_of
from mmc.ir.ops.norm import RmsStatistic
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.source import Input, Weight
from mmc.ir.ops.ternary import AbsMax, Dequantize, FactoredQuantize, TernaryMatmul
from mmc.ir.packing import Layout, pack
from mmc.ir.tensors import Tensors
from mmc.ir.text import render
from mmc.ir.types import DType, TensorType, symbol
from mmc.targets.base import BuildOptions, Executable, graph_file
from mmc.targets.cuda.architecture import MOST_COLUMNS
from mmc.targets.registry import load_target
from mmc.targets.weights_file import write_weights
from tests.end_to_end.compiled import EXAMPLE, GOLDEN, token_ids
from tests.end_to_end.transformers import CONTEXT, source
from tests.folders import workspace
from tests.targets.row_cases import CASES

FOLDER = "MMC_GPU_PREPARED"
"""Environment variable: the folder that `python -m tests.gpu.prepared` wrote."""

NEW_TOKENS = 256
SAMPLED: Mapping[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 3}
ATTENTION = ("llama", "bitnet", "hybrid")
"""Models of the part `attention`."""

OF_CPU = ("tokens", "attention-cpu")
"""Parts with what the CPU target makes."""

ROWS = symbol("rows")


WITHOUT_KERNEL = {"norm_quantize_tensor"}
"""Cases that cannot be compiled yet: a norm within the maximum of a whole tensor."""


def random_trits(n: int, k: int) -> np.ndarray:
    return np.random.default_rng([n, k]).integers(-1, 2, (n, k), np.int8)


SHAPES = (
    *((1, 1), (16, 16), (17, 5), (13, 37), (100, 300), (151, 259), (70, 1301), (2048, 2048)),
    *((257, 4100), (4801, 130), (3, 40_000)),
)
MATRICES: Mapping[str, np.ndarray] = {
    **{f"{n}x{k}": random_trits(n, k) for n, k in SHAPES},
    **{f"all_{trit + 1}": np.full((33, 1301), trit, np.int8) for trit in (-1, 0, 1)},
    "longest": np.full((3, MOST_COLUMNS), -1, np.int8),
}
"""Weights of the entries that multiply, by name."""

ONE = "100x300"
"""The one that the part `product` holds."""

DENSE = "_1_6bit"
"""Behind the names of entries whose weights have 1.6 bits."""


def layouts(names: Iterable[str]) -> dict[str, Layout]:
    """Entries for both layouts."""
    both: dict[str, Layout] = {}
    for name in names:
        both |= {name: "2bit", f"{name}{DENSE}": "1.6bit"}
    return both


def trits_of(entry: str) -> np.ndarray:
    """The matrix of an entry."""
    return MATRICES[entry.removesuffix(DENSE)]


def row_graph(name: str) -> Graph:
    """The body of a case as a kernel over inputs of the same names."""
    body = CASES[name]
    kernel = Kernel(tuple(body.inputs), body)
    outputs = dict(zip((key for key, _ in body.outputs), kernel.results, strict=True))
    return graph_of(name, outputs)


def product_graph(name: str, n: int, k: int, layout: Layout = "2bit") -> Graph:
    """acc [rows, n] of q [rows, k] and a packed matrix."""
    packed = TensorType(DType.packed(layout), (n, k))
    q, w = Input("q", TensorType(DType.I8, (ROWS, k))), Input("w", packed)
    body = graph_of("ternary_matmul", {"acc": TernaryMatmul(q, w)})
    given = (q, Weight(name, packed))
    return graph_of(name, {"acc": Kernel(given, body).results[0]})


CHAINS: Mapping[str, tuple[int, ...]] = {
    "narrow_and_wide": (64, 6352, 64, 35_904),  # a block has more columns than threads
    "long": (4096, 6352),  # the weights of a block come in several pieces
    "longer": (13_040, 32),  # a tile is a piece
}
"""Columns of rows that are multiplied one behind the other."""


def chain_graph(
    name: str, widths: Sequence[int], layout: Layout = "2bit"
) -> tuple[Graph, dict[str, tuple[int, int]]]:
    """Rows that are normed, rounded and multiplied with matrix after matrix; sizes of these."""
    sizes = dict[str, tuple[int, int]]()
    x = Input("x", TensorType(DType.F32, (ROWS, widths[0])))
    given, inputs, y = (x,), (Input("x", x.type),), Input("x", x.type)
    for k, n in pairwise(widths):
        statistic, by = RmsStatistic(y, 1e-6), AbsMax(127.0, -128, 127, 1e-5)
        made = FactoredQuantize(y, statistic, None, by).results
        body = graph_of("norm_quantize", {"q": made[0], "s": made[1]}, inputs)
        q, s = Kernel(given, body).results
        w = Weight(f"{name}.{n}x{k}", TensorType(DType.packed(layout), (n, k)))
        sizes[w.name] = n, k
        q_in, w_in = Input("q", q.type), Input("w", w.type)
        body = graph_of("ternary_matmul", {"acc": TernaryMatmul(q_in, w_in)})
        given = Kernel((q, w), body).results[0], s
        inputs = Input("acc", given[0].type), Input("s", s.type)
        y = Dequantize(*inputs)
    last = Kernel(given, graph_of("dequantize", {"y": y}, inputs))
    return graph_of(name, {"y": last.results[0]}), sizes


def write(
    folder: Path, graphs: Mapping[str, Graph], mcpu: str | None,
    matrices: Mapping[str, np.ndarray] = MATRICES,
) -> None:  # fmt: skip
    """Build graphs of kernels as an artefact has them."""
    folder.mkdir(parents=True)
    weights = list(dict.fromkeys(w for graph in graphs.values() for w in graph.weights))
    tensors = Tensors()
    for name, graph in graphs.items():
        (folder / graph_file(name)).write_text(render(graph))
    packed = {
        w.name: pack(matrices[w.name], layout)
        for w in weights
        if (layout := w.type.dtype.layout) is not None
    }
    write_weights(folder / "weights.safetensors", weights, packed)
    built = load_target("cuda").build(graphs, tensors, folder, lambda _: None, BuildOptions(mcpu))
    (folder / "built.json").write_text(json.dumps([list(graphs), dict(built.facts)]))


def write_rows(folder: Path, mcpu: str | None) -> None:
    write(folder, {name: row_graph(name) for name in CASES if name not in WITHOUT_KERNEL}, mcpu)


def write_product(folder: Path, mcpu: str | None) -> None:
    write(folder, {ONE: product_graph(ONE, *MATRICES[ONE].shape)}, mcpu)


def write_products(folder: Path, mcpu: str | None) -> None:
    graphs: dict[str, Graph] = {}
    for name, layout in layouts(MATRICES).items():
        n, k = trits_of(name).shape
        graphs[name] = product_graph(name, n, k, layout)
    write(folder, graphs, mcpu, {name: trits_of(name) for name in graphs})


def write_chains(folder: Path, mcpu: str | None) -> None:
    made = {
        name: chain_graph(name, CHAINS[name.removesuffix(DENSE)], layout)
        for name, layout in layouts(CHAINS).items()
    }
    matrices = {
        key: random_trits(*size) for _, sizes in made.values() for key, size in sizes.items()
    }
    write(folder, {name: graph for name, (graph, _) in made.items()}, mcpu, matrices)


def write_example(folder: Path, mcpu: str | None) -> None:
    mmc.compile(EXAMPLE, target="cuda", weights="2bit", mcpu=mcpu, out=folder)


def write_dense(folder: Path, mcpu: str | None) -> None:
    """The example in fewer bits."""
    mmc.compile(EXAMPLE, target="cuda", weights="1.6bit", mcpu=mcpu, out=folder)


def write_tokens(folder: Path, mcpu: str | None) -> None:
    """What the CPU target continues a text with."""
    model = mmc.load(mmc.compile(EXAMPLE, out=folder / "artifact").path)
    assert isinstance(model, mmc.Model)
    np.save(folder / "tokens.npy", model.generate(prompt(), NEW_TOKENS))


def write_attention(folder: Path, mcpu: str | None) -> None:
    """Models with attention in each layer and in some."""
    for name in ATTENTION:
        mmc.compile(source(name), target="cuda", mcpu=mcpu, context=CONTEXT, out=folder / name)


def write_attention_cpu(folder: Path, mcpu: str | None) -> None:
    """What the CPU target makes of them: logits, and tokens greedy and sampled."""
    folder.mkdir(parents=True)
    for name in ATTENTION:
        options: dict[str, Any] = {"mcpu": "native", "context": CONTEXT}
        model = mmc.load(mmc.compile(source(name), out=folder / name, **options).path)
        assert isinstance(model, mmc.Model)
        ids = attention_prompt(model.vocab_size)
        made = {"logits": model.forward(ids), "greedy": model.generate(ids, 40)}
        made["sampled"] = model.generate(ids, 40, **SAMPLED)
        np.savez(folder / f"{name}.npz", **made)
        shutil.rmtree(folder / name)


def attention_prompt(vocabulary: int) -> np.ndarray:
    """Token ids [4, 24]."""
    return token_ids(vocabulary, 4, 24)


PARTS = {
    "attention": write_attention,
    "attention-cpu": write_attention_cpu,
    "rows": write_rows,
    "product": write_product,
    "products": write_products,
    "chains": write_chains,
    "example": write_example,
    "dense": write_dense,
    "tokens": write_tokens,
}


def prompt() -> np.ndarray:
    """Token ids [1, 16]."""
    return load_file(GOLDEN)["input_ids"][None, :16].astype(np.int64)


@cache
def prepared(part: str) -> Path:
    """The folder of a part; skips the test where nobody compiled it and nobody can."""
    if FOLDER in os.environ:
        return Path(os.environ[FOLDER], part)
    if importlib.util.find_spec("tvm") is None:
        pytest.skip(f"needs TVM to compile, or {FOLDER} (see tests/gpu/prepared.py)")
    from mmc.targets.cuda.driver import device

    major, minor = device().capability
    folder = workspace() / f"gpu-{part}"
    PARTS[part](folder, None if part in OF_CPU else f"sm_{major}{minor}")
    return folder


def loaded(folder: Path) -> Executable:
    """Entries that `write` built, ready to run."""
    entries, facts = json.loads((folder / "built.json").read_text())
    return load_target("cuda").load(folder, entries, facts)


if __name__ == "__main__":
    for part_name, write_part in PARTS.items():
        write_part(Path(sys.argv[1], part_name), None)
