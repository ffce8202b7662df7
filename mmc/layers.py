"""What became of every linear layer and every recurrence: the table behind `mmc inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from mmc.ir.evaluate import value_of
from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value, producer
from mmc.ir.ops.attention import Attention, AttentionCodes
from mmc.ir.ops.linear import Linear, Matmul
from mmc.ir.ops.pointwise import Add, Cast, Div, Mul
from mmc.ir.ops.recurrence import LinearRecurrence, Scan
from mmc.ir.ops.shape import Reshape, Slice
from mmc.ir.ops.source import Constant, Weight
from mmc.ir.ops.ternary import AbsMax, Dequantize, ExpandTernary, Quantizes, TernaryMatmul
from mmc.ir.tensors import Tensors
from mmc.passes.base import Verdict, place
from mmc.passes.manager import Step
from mmc.passes.matmul_to_ternary import why_dense

ELEMENTWISE = "h' = a*h + b, element by element"


@dataclass(frozen=True)
class Layer:
    """One linear layer [rows, columns]; `why` says why it is dense."""

    name: str
    rows: int
    columns: int
    ternary: bool
    scale: float | None = None
    granularity: str = ""
    zeros: float | None = None
    quantiser: dict[str, Any] | None = None
    why: str = ""


@dataclass(frozen=True)
class Recurrence:
    """One memory over time; `why` says how it is linear, or why it is not and a scan was kept."""

    name: str
    state: str
    linear: bool
    why: str = ""


def linear_layers(graph: Graph, tensors: Tensors, steps: Sequence[Step]) -> list[Layer]:
    """Every linear layer of a graph in which the ternary ones are already `ternary_matmul`."""
    verdicts = _verdicts(steps, "find-ternary-linear").values()
    reasons = {verdict.where: verdict.why for verdict in verdicts if not verdict.fired}
    found: list[Layer] = []
    for op in graph:
        if isinstance(op, TernaryMatmul):
            if not isinstance(op.w, Slice) or op.w.start == 0:  # one of several groups of columns
                found.append(_ternary(op, graph, tensors))
        elif isinstance(op, Linear):
            known = isinstance(op.w, ExpandTernary)
            found.append(
                _dense(op, why_dense(op) if known else reasons.get(place(op), why_dense(op)))
            )
        elif isinstance(op, Matmul | Attention | AttentionCodes):
            found.append(_dense(op, "a product of two activations"))
    return found


def doubtful_scales(layers: Sequence[Layer]) -> str:
    """What speaks against the direction of the scales; empty where nothing does.

    A row of a trained matrix has a length of about one, so that its trits are multiplied by much
    less than one.  Formats disagree on whether they store mean|w|, to multiply by, or its inverse.
    """
    scales = [layer.scale for layer in layers if layer.scale]
    above = [scale for scale in scales if scale > 1]
    if 2 * len(above) <= len(scales):
        return ""
    middle = median(above)
    return (
        f"{len(above)} of {len(scales)} ternary layers multiply by a scale above 1 (the middle one "
        f"by {middle:.3g}): 1/s may have been given where s was meant ({1 / middle:.3g}).  In a "
        "quantization_config, linear_class 'autobitlinear' multiplies by weight_scale and "
        "'bitlinear' divides by it"
    )


def recurrences(graph: Graph, steps: Sequence[Step]) -> list[Recurrence]:
    """Every recurrence of a graph after `find-recurrence`."""
    verdicts = _verdicts(steps, "find-recurrence")
    found: list[Recurrence] = []
    for op in graph:
        if isinstance(op, LinearRecurrence):
            found.append(Recurrence(place(op), str(op.h0.type), True, ELEMENTWISE))
        elif isinstance(op, Scan):
            state = ", ".join(str(v.type) for v in op.init)
            verdict = verdicts.get(place(op), Verdict(place(op), False, "kept as a scan"))
            found.append(Recurrence(place(op), state, verdict.fired, verdict.why))
    return found


def _verdicts(steps: Sequence[Step], name: str) -> dict[str, Verdict]:
    """By place; where a pass has said both at a place, why it did not fire."""
    verdicts = [v for step in steps if step.name == name for v in step.log.verdicts]
    return {v.where: v for v in sorted(verdicts, key=lambda v: not v.fired)}


def _ternary(op: TernaryMatmul, graph: Graph, tensors: Tensors) -> Layer:
    w = op.w.x if isinstance(op.w, Slice) else op.w
    rows, columns = _size(w)
    values = _weight_scale(op, graph, tensors)
    trits = tensors[w.name] if isinstance(w, Weight) else np.zeros(0)
    granularity = "tensor" if values is None else ("tensor", "row", "group")[values.ndim]
    if granularity == "group":
        granularity = f"group of {_size(op.w)[1]}"
    return Layer(
        place(op), rows, columns, True,
        scale=None if values is None else float(values.mean()),
        granularity=granularity,
        zeros=1 - np.count_nonzero(trits) / max(trits.size, 1),
        quantiser=_quantiser(op.x),
    )  # fmt: skip


def _weight_scale(op: TernaryMatmul, graph: Graph, tensors: Tensors) -> np.ndarray | None:
    """What the sum is multiplied with on behalf of the weights: their own scale, and behind it."""
    for reader in graph.users[op]:
        for end, factor in _factors(reader, graph):
            scale = _whole(factor)
            if isinstance(scale, Weight | Constant):
                return value_of(scale, tensors) * _behind(end, graph, tensors)
    return None


def _factors(reader: Op, graph: Graph) -> list[tuple[Op, Value]]:
    """What a sum is multiplied with, and the product."""
    if isinstance(reader, Dequantize):
        return [] if reader.w is None else [(reader, reader.w)]
    if isinstance(reader, Cast):
        return [(user, v) for user in graph.users[reader] for v in user.operands]
    return []


def _whole(factor: Value) -> Value:
    """The scales of all groups, where the factor is that of one."""
    part = factor.x if isinstance(factor, Reshape) else None
    return part.x if isinstance(part, Slice) else factor


def _behind(value: Op, graph: Graph, tensors: Tensors) -> float:
    """The single numbers of the checkpoint that scale a value further, such as `weight_scale`.

    A bias may lie between; a residual or a gate is where the layer ends.
    """
    found = 1.0
    while len(readers := graph.users[value]) == 1:
        (reader,) = readers
        if not isinstance(reader, Mul | Div | Add):
            break
        other = reader.y if reader.x is value else reader.x
        single = other.type.shape[-1:] in ((), (1,))
        if isinstance(reader, Mul) and single:
            found *= _number(other, tensors)
        elif isinstance(reader, Div) and single and other is reader.y:
            found /= _number(other, tensors)
        elif not (isinstance(reader, Add) and isinstance(other, Weight)):
            break
        value = reader
    return found


def _number(factor: Value, tensors: Tensors) -> float:
    """The stored numbers in a product; the rest, the step of the activations, counts as one."""
    if isinstance(factor, Mul):
        return _number(factor.x, tensors) * _number(factor.y, tensors)
    if isinstance(factor, Div):
        return _number(factor.x, tensors) / _number(factor.y, tensors)
    single = isinstance(factor, Weight) and factor.type.shape in ((), (1,))
    return float(value_of(factor, tensors).reshape(())) or 1.0 if single else 1.0


def _quantiser(x: Value) -> dict[str, Any] | None:
    maker = producer(x.x if isinstance(x, Slice) else x)
    by: AbsMax | None = maker.attributes.get("by") if isinstance(maker, Quantizes) else None
    return None if by is None else asdict(by)


def _dense(op: Op, why: str) -> Layer:
    rows, columns = _size(op.operands[1])
    return Layer(place(op), rows, columns, False, why=why)


def _size(value: Value) -> tuple[int, int]:
    rows, columns = value.type.shape[-2:]
    return (rows if isinstance(rows, int) else 0), (columns if isinstance(columns, int) else 0)
