"""Models by their sizes alone: what an estimate needs where there is no checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from mmc.errors import MmcError
from mmc.ir.ops.source import Weight
from mmc.ir.types import DType, TensorType
from mmc.targets.fpga.plan import Phase, Plan


@dataclass(frozen=True)
class Shape:
    """Sizes of a MatMul-free language model as it was released."""

    hidden: int
    layers: int
    wide: int
    vocabulary: int = 32000
    inner: int = 0
    """Numbers of a layer's state; as many as `hidden` where it is 0."""


SHAPES: Mapping[str, Shape] = {
    "370M": Shape(1024, 24, 2816),
    "1.3B": Shape(2048, 24, 5632),
    "2.7B": Shape(2560, 32, 6912),
    "13B": Shape(5120, 40, 13824),
}
"""The released sizes (arXiv:2406.02528, section 4), and the paper's 13B by its rule for `wide`."""


def shape_of(text: str) -> Shape:
    """A name, or sizes: "hidden=1024,layers=24,wide=2816,vocabulary=32000"."""
    if text.upper() in SHAPES:
        return SHAPES[text.upper()]
    known = [field.name for field in fields(Shape)]
    sizes = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    wrong = sizes.keys() - set(known) or {"hidden", "layers", "wide"} - sizes.keys()
    numbers = all(value.isdecimal() and int(value) > 0 for value in sizes.values())
    if wrong or not numbers or len(sizes) != len(text.split(",")):
        raise MmcError(
            f"neither a model directory nor a shape: {text!r}",
            "mmc estimate",
            f"one of {', '.join(SHAPES)}, or hidden=N,layers=N,wide=N[,vocabulary=N][,inner=N]",
        )
    return Shape(**{name: int(value) for name, value in sizes.items()})


def plan_of_shape(shape: Shape) -> Plan:
    """The phases of a model of these sizes; its weights have names and nothing else."""
    hidden, inner, wide = shape.hidden, shape.inner or shape.hidden, shape.wide
    gain_h, gain_i, gain_w = _vector("h", hidden), _vector("i", inner), _vector("w", wide)

    def phase(
        kind: str, layer: int, source: str, gain: Weight, rows: int, normalize: bool = True
    ) -> Phase:
        (columns,) = gain.declared.shape
        matrix = None if kind == "gate" else _matrix(rows, int(str(columns)))
        first = gain if source == "stream" else None
        bound = gain_i if kind == "forget" and layer > 0 else None
        return Phase(
            kind, kind, layer, layer, source, normalize, first, 1 << 15, 0, gain, matrix, rows,
            int(str(columns)), 1 << 15, 24, 8, bound,
        )  # fmt: skip

    phases: list[Phase] = []
    for layer in range(shape.layers):
        phases += [
            phase("forget", layer, "stream", gain_h, inner),
            phase("state", layer, "stream", gain_h, inner, False),
            phase("store", layer, "stream", gain_h, inner, False),
            phase("gate", layer, "gate", gain_i, inner),
            phase("residual", layer, "product", gain_i, hidden),
            phase("glu", layer, "stream", gain_h, 2 * wide),
            phase("residual", layer, "product", gain_w, hidden),
        ]
    phases.append(phase("head", shape.layers, "stream", gain_h, shape.vocabulary))
    table = Weight("embedding", TensorType(DType.I16, (shape.vocabulary, hidden)))
    return Plan(table, 0, tuple(phases), tuple(f"h{layer}" for layer in range(shape.layers)))


def _vector(name: str, length: int) -> Weight:
    return Weight(name, TensorType(DType.I16, (length,)))


def _matrix(rows: int, columns: int) -> Weight:
    return Weight(f"{rows}x{columns}", TensorType(DType.TERNARY, (rows, columns)))
