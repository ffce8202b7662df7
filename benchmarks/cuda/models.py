"""Prepared folders with random weights, ready to run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import mmc
from benchmarks.cuda.prepare import FACTS
from mmc.artifact import Artifact
from mmc.ir.ops.source import Weight
from mmc.ir.packing import pack
from mmc.ir.statistics import stored_bytes
from mmc.ir.text import parse
from mmc.ir.types import static_shape
from mmc.targets.base import graph_file
from mmc.targets.cuda.executable import CudaExecutable
from mmc.targets.registry import load_target
from mmc.targets.tvm.geometry import Geometry
from mmc.targets.weights_file import write_weights


class RandomWeights(Mapping[str, np.ndarray]):
    """Random values for every weight: a few million that repeat, for numbers cost time."""

    def __init__(self, weights: list[Weight]) -> None:
        self._weights = {weight.name: weight for weight in weights}
        random = np.random.default_rng(0)
        trits = random.integers(-1, 2, (4096, 4099), np.int8)
        layouts = {weight.type.dtype.layout for weight in weights}
        self._packed = {layout: pack(trits, layout) for layout in layouts if layout is not None}
        self._floats = random.standard_normal(1 << 20, np.float32) * np.float32(0.02)

    def __getitem__(self, name: str) -> np.ndarray:
        declared = self._weights[name].type
        if declared.dtype.layout is not None:
            return np.resize(self._packed[declared.dtype.layout], stored_bytes(declared))
        shape = static_shape(declared.shape)
        gain = 1.0 if len(shape) < 2 else 0.0  # near one, matrices near zero
        return (np.resize(self._floats, shape) + np.float32(gain)).astype(declared.dtype.numpy)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def facts(folder: Path) -> dict[str, Any]:
    """What `benchmarks.cuda.prepare` wrote down."""
    return json.loads((folder / FACTS).read_text())


def executable(folder: Path, embedding_memory: str = "device") -> CudaExecutable:
    """The entries of a prepared folder; its weights are made where they are not there yet."""
    known = facts(folder)
    file = folder / "weights.safetensors"
    if not file.is_file():
        graphs = [parse((folder / graph_file(e)).read_text(), e) for e in known["entries"]]
        weights = list(dict.fromkeys(w for graph in graphs for w in graph.weights))
        write_weights(file, weights, RandomWeights(weights))
    target, entries = load_target("cuda"), known["entries"]
    found = target.load(folder, entries, known["built"], embedding_memory=embedding_memory)
    assert isinstance(found, CudaExecutable)
    return found


def model(folder: Path, loaded: CudaExecutable) -> mmc.Model:
    """A model of a shape."""
    return mmc.Model(Artifact(folder, facts(folder)), loaded)


def workspace(loaded: CudaExecutable, entry: str, tokens: int) -> int:
    """Bytes that lie between the kernels of an entry, for one sequence."""
    geometry = Geometry(loaded.plans[entry], {"B": 1, "T": tokens})
    return geometry.arena_bytes["workspace"]
