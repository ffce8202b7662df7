"""The shapes that are measured, and models of them of which nothing but the shape is known.

A checkpoint of 13 billion parameters is not needed to compile for its shape: the model is traced
without values, and every matrix is taken for ternary instead of looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from benchmarks.make_random_model import SHAPES as RELEASED
from benchmarks.make_random_model import configuration, intermediate_size
from mmc.driver import FIND, REWRITE, entries
from mmc.embedding import in_fewer_bits
from mmc.errors import MmcError
from mmc.frontends.base import Stored
from mmc.frontends.models.causal_lm import import_causal_lm
from mmc.frontends.models.hgrn_bit import HgrnBitForCausalLM
from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.source import Weight
from mmc.ir.ops.ternary import ExpandTernary
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, TensorType
from mmc.passes.base import Log, Pass
from mmc.passes.manager import PassManager
from mmc.passes.registry import load_pass
from mmc.targets.base import Target


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `matrices` are the rows and columns of one layer's, i, f and g as one.

    weights, embedding: as `mmc compile` takes them.
    """

    width: int
    layers: int
    vocabulary: int
    weights: str = "2bit"
    embedding: str | None = None

    @property
    def sizes(self) -> Shape:
        """The shape of the peer, which has neither."""
        return Shape(self.width, self.layers, self.vocabulary)

    @property
    def inner(self) -> int:
        return intermediate_size(self.width)

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        h, f = self.width, self.inner
        return ((3 * h, h), (h, h), (2 * f, h), (h, f))


SHAPES: dict[str, Shape] = {
    **{name: Shape(*RELEASED[name]) for name in ("370m", "1.3b", "2.7b")},
    "13b": Shape(5120, 40, 32000),
    "13b-dense": Shape(5120, 40, 32000, "1.6bit", "int8"),
}
"""The released sizes, and the largest of arXiv:2406.02528; that one also in fewer bits."""


@dataclass(frozen=True)
class AssumeTernary(Pass):
    """Every linear layer has trits and one scale, whatever they may be."""

    name: ClassVar[str] = "assume-ternary"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        layers = [op for op in graph if isinstance(op, Linear) and isinstance(op.w, Weight)]
        made: dict[Value, Value] = {op.w: _trits(op.w, tensors) for op in layers}
        return graph.map(lambda old, moved: made.get(old, moved))


def _trits(weight: Value, tensors: Tensors) -> Op:
    assert isinstance(weight, Weight)
    types = TensorType(DType.TERNARY, weight.type.shape), TensorType(DType.F32, ())
    parts = [
        tensors.add(f"{weight.name.removesuffix('.folded')}.{part}", declared, weight)
        for part, declared in zip(("trits", "scale"), types, strict=True)
    ]
    return ExpandTernary(*parts)


def _released(name: str, shape: Sequence[int]) -> Stored:
    """A tensor as checkpoints have it, in bf16, without its values."""

    def load() -> np.ndarray:
        raise MmcError("only its shape is known", f"weight {name}")

    return Stored(name, TensorType(DType.BF16, tuple(shape)), load)


def graphs(shape: Shape, target: Target) -> dict[str, Graph]:
    """What is built for a model of that shape, by entry."""
    described = configuration(shape.width, shape.layers, shape.vocabulary)
    with torch.device("meta"):
        module = HgrnBitForCausalLM(HgrnBitConfig.parse(described)).eval()
    held = {name: _released(name, tensor.shape) for name, tensor in module.state_dict().items()}
    imported = import_causal_lm(module, held)
    if shape.embedding:
        imported = in_fewer_bits(imported, shape.embedding)
    manager = PassManager(imported.tensors)
    find = [AssumeTernary() if n == "find-ternary-linear" else load_pass(n) for n in FIND]
    rewrite = [load_pass(name) for name in (*REWRITE, "fold-constants")]
    machine = target.capabilities.machine
    pack = load_pass("pack-ternary", {"layout": shape.weights, "machine": machine})
    core = manager.run(imported.graph, [*find, *rewrite, pack])
    return {
        name: manager.run(start.renamed(name), passes)
        for name, start, passes in entries("causal_lm", core, target)
    }
