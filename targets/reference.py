"""The reference target: the interpreter, slow, and the truth that others are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmc.errors import MmcError
from mmc.ir.evaluate import evaluate
from mmc.ir.graph import Graph
from mmc.ir.tensors import Tensors
from mmc.targets.base import (
    Arrays,
    BuildOptions,
    Built,
    Capabilities,
    Executable,
    Meter,
    Progress,
    Target,
    read_graphs,
)
from mmc.targets.weights_file import WeightsFile


class ReferenceTarget(Target):
    name: ClassVar[str] = "reference"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "the interpreter in numpy: slow, runs every operation",
        ("2bit", "1.67bit", "1.6bit"),
        kernels=False,
        kv_caches=("int8",),
    )

    def build(
        self,
        entries: Mapping[str, Graph],
        tensors: Tensors,
        folder: Path,
        progress: Progress,
        options: BuildOptions,
    ) -> Built:
        return Built()

    def load(
        self, folder: Path, entries: Sequence[str], built: Mapping[str, Any], *,
        embedding_memory: str = "device",
    ) -> Executable:  # fmt: skip
        return _Interpreter(folder, entries)


class _Interpreter:
    def __init__(self, folder: Path, entries: Sequence[str]) -> None:
        weights = WeightsFile.open(folder / "weights.safetensors")
        self._graphs = read_graphs(folder, entries)
        self._tensors = {w.name: weights.array(w) for g in self._graphs.values() for w in g.weights}

    def run(self, entry: str, inputs: Arrays) -> dict[str, np.ndarray]:
        return evaluate(self._graphs[entry], inputs, self._tensors)

    def use_threads(self, count: int) -> None:
        if count != 1:
            raise MmcError(f"the interpreter has one thread, not {count}", "target reference")

    def meter(self) -> Meter:
        return Meter()


TARGET = ReferenceTarget()
