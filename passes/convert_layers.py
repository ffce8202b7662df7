"""Turn the layers of a Transformer into ternary or MatMul-free ones, as `mmc convert` begins.

ternary: every linear layer before the head reads int8 and has a matrix of three values, times one
scale; where no norm stands before a layer it gets one.  matmul-free: the head too, and attention
becomes a linear recurrence: values are taken in, keys are the forget gate, queries the output gate,
and its state [B, width] takes the place of the caches (arXiv:2406.02528, sections 3.2 and 3.3.1).
Nothing is trained here: the graph runs, and what it says is not yet worth reading.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmc.errors import MmcError
from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op, Value, origin, producer
from mmc.ir.ops.attention import POSITION, Attention, CacheAppend, Rotary
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.norm import RmsNorm
from mmc.ir.ops.pointwise import Abs, Add, Clamp, Div, Mul, Round, Sigmoid, Silu, Sub
from mmc.ir.ops.recurrence import LinearRecurrence
from mmc.ir.ops.reduce import Mean
from mmc.ir.ops.shape import Expand, Reshape, TakePosition
from mmc.ir.ops.source import Input, Weight, scalar
from mmc.ir.ops.ternary import AbsMax, Dequantize, Quantize
from mmc.ir.tensors import Tensors
from mmc.ir.types import Dim, DType, Shape, TensorType, static_shape
from mmc.passes.base import Log, Pass, place

TO, ORDERS = ("ternary", "matmul-free"), ("released", "paper", "hgrn")
ROUNDING = {"ternary": "half_even", "matmul-free": "half_away"}
"""Of activations, as in BitNet and in the released code."""
EPS = 1e-5
"""The least maximum of activations, and the least mean of weights."""


@dataclass(frozen=True)
class ConvertLayers(Pass):
    """keep_attention: "every=N" or "layers=0,3"."""

    name: ClassVar[str] = "convert-layers"
    exact: ClassVar[bool] = False
    to: str = "matmul-free"
    keep_attention: str = ""
    gate_order: str = "released"
    norm_eps: float = 1e-6

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        self._refuse_unknown()
        mixers = [op for op in graph if isinstance(op, Attention)]
        replaced = self._replaced(mixers)
        caches: set[str] = set()
        memories: dict[Input, Value] = {}

        def step(old: Op, moved: Op) -> Op | Value:
            with origin(old.origin):
                if isinstance(moved, Attention) and old in replaced:
                    log.fire(old, "recurrence", f"{self.gate_order}: keys are the forget gate")
                    gone = [_cache(part).name for part in (moved.keys, moved.values)]
                    caches.update(gone)
                    name = f"{gone[0].removesuffix('keys')}h"
                    y, memory, h = self._recurrence(moved, name, replaced[old])
                    memories[memory] = h
                    return y
                if isinstance(moved, Linear) and isinstance(moved.w, Weight):
                    if self.to == "ternary" and old in graph.values:
                        log.skip(old, "the head stays as it is")
                    else:
                        log.fire(old, "ternary", "int8 times three values")
                        return self._ternary(moved, moved.w)
                return moved

        made, mapped = graph.map(step)
        return _with_memories(made, caches, memories), mapped

    def _refuse_unknown(self) -> None:
        for option, value, known in (("to", self.to, TO), ("gate_order", self.gate_order, ORDERS)):
            if value not in known:
                raise MmcError(f"{value!r} is not known", option, f"known: {', '.join(known)}")
        if self.to == "ternary" and (self.keep_attention or self.gate_order != "released"):
            raise MmcError("ternary keeps all attention", "keep_attention, gate_order")

    def _replaced(self, mixers: Sequence[Op]) -> dict[Op, float]:
        """The attention that goes, and how much its forget gates keep at least.

        From nothing in the first layer upwards, as where training begins.
        """
        if self.to == "ternary":
            return {}
        kept = kept_layers(self.keep_attention or None, len(mixers))
        return {op: n / len(mixers) for n, op in enumerate(mixers) if n not in kept}

    def _ternary(self, layer: Linear, weight: Weight) -> Value:
        x = layer.x
        if not isinstance(producer(x), RmsNorm):
            x = RmsNorm(x, None, self.norm_eps)
        q, s = Quantize(x, AbsMax(eps=EPS, rounding=ROUNDING[self.to])).results
        flat = Reshape(Abs(weight), (math.prod(static_shape(weight.type.shape)),))
        mean = Clamp(Mean(flat, -1, False), EPS, None)
        trits = Clamp(Round(Mul(weight, Div(scalar(1.0), mean)), "half_even"), -1, 1)
        return Linear(Dequantize(q, s), Mul(trits, mean), layer.bias)

    def _recurrence(self, mixer: Attention, name: str, bound: float) -> tuple[Op, Input, Value]:
        """What takes its place, the memory that goes in, and the memory that comes out."""
        batch, steps, heads, size = shape = mixer.type.shape
        width = static_shape((heads, size))
        wide: Shape = (batch, steps, math.prod(width))
        g, f, i = (
            Reshape(_repeated(_projection(each), heads), wide)
            for each in (mixer.q, mixer.keys, mixer.values)
        )
        decay = Sigmoid(f)
        if bound:
            decay = Add(Mul(decay, scalar(1 - bound)), scalar(bound))
        memory = Input(name, TensorType(DType.F32, (batch, wide[-1])))
        taken = Mul(Silu(i), Sub(scalar(1.0), decay))
        h = LinearRecurrence(decay, taken, memory, 1)
        last = TakePosition(h, Sub(_append(mixer.keys).lengths, scalar(1, DType.I64)))
        return Reshape(self._gated(g, h), shape), memory, Reshape(last, memory.type.shape)

    def _gated(self, g: Value, h: Value) -> Value:
        match self.gate_order:
            case "released":
                return Mul(RmsNorm(g, None, self.norm_eps), Silu(h))
            case "hgrn":
                return Mul(RmsNorm(h, None, self.norm_eps), Silu(g))
            case _:
                return Mul(Sigmoid(g), h)


def kept_layers(spelling: str | None, layers: int) -> tuple[int, ...]:
    """From "every=N" (the last of each N layers) or "layers=0,3"."""
    if spelling is None:
        return ()
    kind, _, rest = spelling.partition("=")
    numbers = [int(n) if n.isdecimal() else -1 for n in rest.split(",")]
    if kind == "every" and len(numbers) == 1 and 1 <= numbers[0] <= layers:
        return tuple(range(numbers[0] - 1, layers, numbers[0]))
    if kind == "layers" and all(0 <= n < layers for n in numbers):
        return tuple(sorted(set(numbers)))
    raise MmcError(
        f"{spelling!r} names no layers of {layers}", "--keep-attention", "every=4 or layers=0,3"
    )


def _append(cache: Value) -> CacheAppend:
    op = producer(cache)
    if not isinstance(op, CacheAppend):
        raise MmcError("attention without a cache is not converted", place(op))
    return op


def _cache(cache: Value) -> Input:
    """The input behind a cache that attention reads."""
    found = producer(_append(cache).cache)
    if not isinstance(found, Input):
        raise MmcError(f"the cache is no input but {found!r}", place(found))
    return found


def _projection(value: Value) -> Value:
    """Heads [B, T, heads, D] as they were projected, without their positions."""
    op = producer(value)
    while isinstance(op, CacheAppend | Rotary):
        value = op.x
        op = producer(value)
    return value


def _repeated(x: Value, heads: Dim) -> Value:
    """[B, T, G, D] -> [B, T, G, heads / G, D]: each group for all of its heads."""
    batch, steps, groups, size = x.type.shape
    (many, few) = static_shape((heads, groups))
    one = Reshape(x, (batch, steps, few, 1, size))
    return Expand(one, (batch, steps, few, many // few, size))


def _with_memories(graph: Graph, caches: set[str], memories: Mapping[Input, Value]) -> Graph:
    """Memories for caches; the position goes too where nothing but itself reads it."""
    outputs = [(name, value) for name, value in graph.outputs if name not in caches]
    rest = Graph("rest", (), tuple(o for o in outputs if o[0] != POSITION))
    if memories and not any(isinstance(op, Input) and op.name == POSITION for op in rest):
        caches = caches | {POSITION}
        outputs = [(name, value) for name, value in outputs if name != POSITION]
    inputs = [op for op in graph.inputs if op.name not in caches]
    outputs += [(memory.name, h) for memory, h in memories.items()]
    return Graph(graph.name, (*inputs, *memories), tuple(outputs))


PASS = ConvertLayers
