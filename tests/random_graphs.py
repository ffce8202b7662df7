"""Random typed graphs over every operation, and numbers to run them on.

`MAKERS` has a function for each operation of the registry: from a `Builder`, which remembers the
values made so far, to one more operation.  Where an operand of the right type is missing it makes
an input.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

import mmc.ir.ops.catalog  # noqa: F401  # pyright: ignore[reportUnusedImport]
from mmc.ir.evaluate import Arrays
from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Op, Origin, Value, origin
from mmc.ir.ops import (
    int4,
    linear,
    logic,
    norm,
    pointwise,
    recurrence,
    reduce,
    shape,
    source,
    ternary,
)
from mmc.ir.packing import pack
from mmc.ir.tensors import Tensors
from mmc.ir.types import Dim, DType, Shape, TensorType, numel, static_shape
from tests.inputs import B, T

SIZES = {"B": 2, "T": 5}
WIDTHS = (1, 4, 32)
FLOATS = (DType.F32, DType.F32, DType.F32, DType.F16, DType.BF16)
NUMBERS = (*FLOATS, DType.I8, DType.I32, DType.I64)
EPS = (1e-5, 1e-6, 1.0)


def tensor(dtype: DType, *dims: Dim) -> TensorType:
    return TensorType(dtype, dims)


class Builder:
    """The values made so far, and random choices among them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.values: list[Value] = []
        self.sources: set[Value] = set()
        self.depth = 0

    def input(self, declared: TensorType) -> source.Input:
        made = source.Input(f"x{len(self.sources)}", declared)
        self._keep(made)
        return made

    def weight(self, declared: TensorType) -> Value:
        """A weight; inside a body, which has none, an input."""
        if self.depth:
            return self.input(declared)
        made = source.Weight(f"layers.{len(self.sources)}.w", declared)
        self._keep(made)
        return made

    def _keep(self, made: Op) -> None:
        self.sources.add(made)
        self.values.append(made)

    def float_shape(self) -> Shape:
        width = self.rng.choice(WIDTHS)
        return self.rng.choice([(B, T, width), (B, T, width), (B, width), (B * T, width), (width,)])

    def any(self, accept: Callable[[TensorType], bool], fresh: TensorType) -> Value:
        """A value of a type that is accepted, or now and then a new input."""
        fitting = [v for v in self.values if accept(v.type)]
        if fitting and self.rng.random() < 0.9:
            return self.rng.choice(fitting[-12:])
        return self.input(fresh)

    def of(self, declared: TensorType) -> Value:
        return self.any(lambda t: t == declared, declared)

    def number(self) -> Value:
        """A value of any shape that one can calculate with."""
        fresh = TensorType(self.rng.choice(NUMBERS), self.float_shape())
        return self.any(lambda t: t.dtype in NUMBERS, fresh)

    def floating(self) -> Value:
        fresh = TensorType(self.rng.choice(FLOATS), self.float_shape())
        return self.any(lambda t: t.dtype.is_float, fresh)

    def f32(self, rank: int = 1) -> Value:
        fresh = tensor(DType.F32, *(B, T, self.rng.choice(WIDTHS))[-max(rank, 1) :])
        return self.any(lambda t: t.dtype is DType.F32 and t.rank >= rank, fresh)

    def integer(self) -> Value:
        fresh = TensorType(self.rng.choice((DType.I32, DType.I64)), self.float_shape())
        return self.any(lambda t: t.dtype in (DType.I32, DType.I64), fresh)

    def like(self, value: Value) -> Value:
        """An operand of the same dtype that broadcasts with the value."""
        t = value.type
        kept = t.shape[self.rng.randrange(t.rank + 1) :]
        dims = tuple(1 if self.rng.random() < 0.3 else d for d in kept)
        return self.of(TensorType(t.dtype, self.rng.choice((t.shape, t.shape, dims))))

    def axis(self, value: Value) -> int:
        return self.rng.randrange(-value.type.rank, value.type.rank)

    def absmax(self) -> ternary.AbsMax:
        pick = self.rng.choice
        low, rounding = pick((-128, -127)), pick(tuple(pointwise.ROUNDINGS))
        granularity = pick(("token", "token", "tensor"))
        return ternary.AbsMax(pick((127, 128.0)), low, 127, pick(EPS), rounding, granularity)

    def gain(self, x: Value) -> Value | None:
        width = x.type.shape[-1:]
        return self.rng.choice((None, self.weight(TensorType(x.type.dtype, width))))

    def body(self, inputs: list[source.Input], outputs: list[TensorType], size: int) -> Graph:
        """A nested graph with outputs of the given types."""
        inner = Builder(self.rng)
        inner.depth = self.depth + 1
        inner.values += inputs
        for _ in range(size):
            x = inner.rng.choice(inputs)
            inner.values.append(pointwise.Tanh(inner.rng.choice(inner.values)))
            inner.values.append(pointwise.Add(x, x))
        values: dict[str, Value] = {}
        for n, wanted in enumerate(outputs):
            fitting = [v for v in inner.values if v.type == wanted]
            values[f"y{n}"] = inner.rng.choice(fitting)
        return graph_of("body", values, inputs)


def leaves(family: type[Op]) -> list[type[Op]]:
    """The operations of a family, those of the families below it too, in a fixed order."""
    below = family.__subclasses__()
    return [leaf for kind in below for leaf in (leaves(kind) or [kind])]


Maker = Callable[[Builder], Op]
MAKERS: dict[str, Maker] = {}


def maker(*kinds: type[Op]) -> Callable[[Callable[[Builder, type[Op]], Op]], None]:
    """Register one function for several operations; it is told which one to make."""

    def register(function: Callable[[Builder, type[Op]], Op]) -> None:
        for kind in kinds:
            MAKERS[kind.mnemonic] = lambda b, kind=kind: function(b, kind)

    return register


@maker(source.Input)
def _(b: Builder, _: type[Op]) -> Op:
    return b.input(TensorType(b.rng.choice((*NUMBERS, DType.BOOL)), b.float_shape()))


@maker(source.Weight)
def _(b: Builder, _: type[Op]) -> Op:
    made = b.weight(tensor(b.rng.choice(FLOATS), b.rng.choice(WIDTHS)))
    assert isinstance(made, Op)
    return made


@maker(source.Constant)
def _(b: Builder, _: type[Op]) -> Op:
    value = b.rng.choice((0.0, -0.0, 1.0, 1e-45, float("inf"), float("nan"), -2.5, 1 / 3))
    return source.Constant(
        value, TensorType(b.rng.choice(FLOATS), b.rng.choice(((), (4,), (B, 1))))
    )


@maker(source.Iota)
def _(b: Builder, _: type[Op]) -> Op:
    return source.Iota(b.rng.choice((3, T, B * T, T + 2)), b.rng.randrange(3))


@maker(*leaves(pointwise.Unary))
def _(b: Builder, kind: type[Op]) -> Op:
    x = b.floating()
    if kind is pointwise.Cast:
        return pointwise.Cast(b.number(), b.rng.choice((*NUMBERS, DType.BOOL)))
    if kind is pointwise.Clamp:
        return pointwise.Clamp(x, b.rng.choice((None, -1, -0.5)), b.rng.choice((None, 2, 1e6)))
    if kind is pointwise.Round:
        return pointwise.Round(x, b.rng.choice(tuple(pointwise.ROUNDINGS)))
    if kind is pointwise.Gelu:
        return pointwise.Gelu(x, b.rng.choice(("none", "tanh")))
    return kind(x)


@maker(*(k for k in leaves(pointwise.Binary) if not issubclass(k, logic.Comparison)))
def _(b: Builder, kind: type[Op]) -> Op:
    if kind in (logic.BitAnd, logic.BitOr, logic.ShiftRight):
        x = b.integer()
        by = logic.BitAnd(b.like(x), source.Constant(7, TensorType(x.type.dtype, ())))
        return kind(x, by)
    x = b.floating() if kind is pointwise.Pow else b.number()
    return kind(x, b.like(x)) if b.rng.random() < 0.8 else kind(b.like(x), x)


@maker(*logic.Comparison.__subclasses__())
def _(b: Builder, kind: type[Op]) -> Op:
    x = b.number()
    return kind(x, b.like(x))


@maker(logic.Where)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.number()
    mask = b.of(TensorType(DType.BOOL, x.type.shape))
    return logic.Where(mask, x, b.like(x))


@maker(*reduce.Reduction.__subclasses__(), *reduce.AlongAxis.__subclasses__())
def _(b: Builder, kind: type[Op]) -> Op:
    x = b.any(lambda t: t.dtype.is_float and t.rank >= 1, tensor(DType.F32, B, T, 4))
    if issubclass(kind, reduce.Reduction):
        return kind(x, b.axis(x), b.rng.random() < 0.5)
    return kind(x, b.axis(x))


@maker(shape.Reshape)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.number()
    dims = x.type.shape
    return shape.Reshape(x, b.rng.choice(((numel(dims),), (*dims, 1), (1, *dims), dims)))


@maker(shape.Permute)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.number()
    order = list(range(x.type.rank))
    b.rng.shuffle(order)
    return shape.Permute(x, tuple(order))


@maker(shape.Expand)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.number()
    dims = tuple(b.rng.choice((B, T, 3)) if d == 1 else d for d in x.type.shape)
    return shape.Expand(x, b.rng.choice((dims, (B, *dims), (2, *dims))))


@maker(shape.Slice)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.any(lambda t: t.rank >= 1 and t.dtype in NUMBERS, tensor(DType.F32, B, T, 4))
    axis = b.axis(x)
    size = x.type.shape[axis]
    if not isinstance(size, int):
        return shape.Slice(x, axis, b.rng.choice((0, size - 1)), 1)
    length = b.rng.randint(1, size)
    step = b.rng.randint(1, max(1, (size - 1) // max(1, length - 1)))
    return shape.Slice(x, axis, b.rng.randint(0, size - 1 - (length - 1) * step), length, step)


@maker(shape.Concat)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.any(lambda t: t.rank >= 1 and t.dtype in NUMBERS, tensor(DType.F32, B, T, 4))
    parts = [x, *(b.of(x.type) for _ in range(b.rng.randrange(3)))]
    return shape.Concat(tuple(parts), b.axis(x))


@maker(shape.Pad)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.any(lambda t: t.rank >= 1 and t.dtype in NUMBERS, tensor(DType.F32, B, T, 4))
    return shape.Pad(
        x, b.axis(x), b.rng.randrange(3), b.rng.randrange(3), b.rng.choice((0, 1, 2.0))
    )


@maker(shape.Gather)
def _(b: Builder, _: type[Op]) -> Op:
    table = b.weight(tensor(b.rng.choice(FLOATS), 8, b.rng.choice(WIDTHS)))
    return shape.Gather(table, b.input(tensor(b.rng.choice((DType.I32, DType.I64)), B, T)))


@maker(shape.TakePosition)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.any(lambda t: t.shape[:2] == (B, T), tensor(DType.F32, B, T, 4))
    return shape.TakePosition(x, b.input(tensor(DType.I64, B)))


@maker(linear.Linear)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.any(
        lambda t: t.dtype is DType.F32 and t.rank > 0 and t.shape[-1] in WIDTHS,
        tensor(DType.F32, B, T, 4),
    )
    n = b.rng.choice(WIDTHS)
    w = b.weight(tensor(DType.F32, n, x.type.shape[-1]))
    return linear.Linear(x, w, b.rng.choice((None, b.weight(tensor(DType.F32, n)))))


@maker(linear.Matmul)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.any(lambda t: t.dtype is DType.F32 and t.rank >= 2, tensor(DType.F32, B, T, 4))
    lead, k = x.type.shape[:-2], x.type.shape[-1]
    return linear.Matmul(x, b.of(tensor(DType.F32, *b.rng.choice((lead, ())), k, 3)))


@maker(norm.RmsStatistic)
def _(b: Builder, _: type[Op]) -> Op:
    return norm.RmsStatistic(b.f32(), b.rng.choice(EPS))


@maker(norm.RmsNorm)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.f32()
    return norm.RmsNorm(x, b.gain(x), b.rng.choice(EPS))


@maker(norm.LayerNorm)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.f32()
    return norm.LayerNorm(x, b.gain(x), b.gain(x), b.rng.choice(EPS))


@maker(ternary.Quantize)
def _(b: Builder, _: type[Op]) -> Op:
    return ternary.Quantize(b.f32(), b.absmax())


@maker(ternary.RmsNormQuantize)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.f32()
    return ternary.RmsNormQuantize(x, b.gain(x), b.rng.choice(EPS), b.absmax())


@maker(ternary.ScaleQuantize)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.f32()
    statistic = norm.RmsStatistic(x, b.rng.choice(EPS))
    return ternary.ScaleQuantize(x, statistic, b.gain(x), b.absmax())


@maker(ternary.FactoredQuantize)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.f32()
    statistic, by = norm.RmsStatistic(x, b.rng.choice(EPS)), b.absmax()
    return ternary.FactoredQuantize(x, statistic, b.gain(x), replace(by, granularity="token"))


def _int8(b: Builder) -> tuple[Value, Value]:
    """Activations in int8 with 32 columns and their steps."""
    x = b.of(tensor(DType.F32, B, T, 32))
    by = ternary.AbsMax()
    q, s = b.rng.choice(
        (ternary.Quantize(x, by), ternary.Quantize(norm.RmsNorm(x, b.gain(x), 1e-6), by))
    )
    return q, s


def _trits(b: Builder, n: int) -> Value:
    if b.depth:
        return b.input(tensor(DType.TERNARY, n, 32))
    dtype = b.rng.choice((DType.TERNARY, DType.TERNARY, DType.TERNARY_2BIT, DType.TERNARY_1_6BIT))
    return b.weight(tensor(dtype, n, 32))


@maker(ternary.TernaryMatmul)
def _(b: Builder, _: type[Op]) -> Op:
    return ternary.TernaryMatmul(_int8(b)[0], _trits(b, b.rng.choice((4, 32))))


@maker(ternary.Dequantize)
def _(b: Builder, _: type[Op]) -> Op:
    q, s = _int8(b)
    n = b.rng.choice((4, 32))
    scale = b.rng.choice((None, tensor(DType.F32), tensor(DType.F32, n)))
    product = ternary.TernaryMatmul(q, _trits(b, n))
    return ternary.Dequantize(product, s, scale and b.weight(scale))


@maker(ternary.ExpandTernary)
def _(b: Builder, _: type[Op]) -> Op:
    scale = b.rng.choice(((), (4,), (4, 2)))
    return ternary.ExpandTernary(
        b.weight(tensor(DType.TERNARY, 4, 32)), b.weight(TensorType(DType.F32, scale))
    )


@maker(int4.QuantizeInt4)
def _(b: Builder, _: type[Op]) -> Op:
    return int4.QuantizeInt4(b.weight(tensor(DType.F32, 4, 32)))


@maker(int4.DequantizeInt4)
def _(b: Builder, _: type[Op]) -> Op:
    codes, steps = b.weight(tensor(DType.U8, 4, 16)), b.weight(tensor(DType.F16, 4, 1))
    return int4.DequantizeInt4(codes, steps)


@maker(ternary.PackTernary)
def _(b: Builder, _: type[Op]) -> Op:
    return ternary.PackTernary(
        b.weight(tensor(DType.TERNARY, 4, 32)), b.rng.choice(("2bit", "1.67bit", "1.6bit"))
    )


@maker(recurrence.Scan)
def _(b: Builder, _: type[Op]) -> Op:
    x = b.of(tensor(DType.F32, B, T, 4))
    step = tensor(DType.F32, B, 4)
    inputs = [source.Input("h", step), source.Input("x", step), source.Input("c", step)]
    body = b.body(inputs, [step] * b.rng.randint(1, 3), b.rng.randrange(4))
    return recurrence.Scan((b.of(step),), (x,), (b.of(step),), body, 1)


@maker(recurrence.LinearRecurrence)
def _(b: Builder, _: type[Op]) -> Op:
    axis = b.rng.randrange(3)
    declared = tensor(DType.F32, B, T, b.rng.choice(WIDTHS))
    h0 = declared.with_shape((*declared.shape[:axis], *declared.shape[axis + 1 :]))
    return recurrence.LinearRecurrence(b.of(declared), b.of(declared), b.of(h0), axis)


@maker(recurrence.CausalConv)
def _(b: Builder, _: type[Op]) -> Op:
    width = b.rng.randint(1, 4)
    state = b.of(tensor(DType.F32, B, width - 1, 4))
    bias = b.rng.choice((None, b.weight(tensor(DType.F32, 4))))
    return recurrence.CausalConv(
        b.of(tensor(DType.F32, B, T, 4)), state, b.weight(tensor(DType.F32, 4, width)), bias
    )


@maker(recurrence.ConvWindow)
def _(b: Builder, _: type[Op]) -> Op:
    state = b.of(tensor(DType.F32, B, 3, 4))
    return recurrence.ConvWindow(
        b.of(tensor(DType.F32, B, T, 4)), state, b.input(tensor(DType.I64, B))
    )


@maker(recurrence.Kernel)
def _(b: Builder, _: type[Op]) -> Op:
    arguments = [b.f32() for _ in range(b.rng.randint(1, 3))]
    inputs = [source.Input(f"x{n}", value.type) for n, value in enumerate(arguments)]
    picked = [b.rng.choice(inputs).type for _ in range(b.rng.randint(1, 2))]
    body = b.body(inputs, picked, b.rng.randrange(3))
    return recurrence.Kernel(tuple(arguments), body)


# What trained models hold, so that the rewrite rules have something to find.


def _straight_through(b: Builder) -> Value:
    x = b.f32()
    strength = source.scalar(b.rng.choice((1.0, 0.5)))
    back = pointwise.Detach(pointwise.Sub(pointwise.Round(x), x))
    return pointwise.Add(x, b.rng.choice((back, pointwise.Mul(back, strength))))


def _fake_quantised_layer(b: Builder) -> Value:
    x = norm.RmsNorm(b.of(tensor(DType.F32, B, T, 32)), None, 1e-6)
    largest = pointwise.Clamp(reduce.Max(pointwise.Abs(x)), 1e-5, None)
    scale = pointwise.Div(source.scalar(127.0), largest)
    q = pointwise.Clamp(pointwise.Round(pointwise.Mul(x, scale)), -128, 127)
    t = b.weight(tensor(DType.TERNARY, 4, 32))
    w = ternary.ExpandTernary(t, b.weight(TensorType(DType.F32, b.rng.choice(((), (4,), (4, 1))))))
    return linear.Linear(
        pointwise.Div(q, scale), w, b.gain(source.Input("n", tensor(DType.F32, 4)))
    )


def _exponential_average(b: Builder) -> Value:
    step = tensor(DType.F32, B, 4)
    h, x = source.Input("h", step), source.Input("x", step)
    f = pointwise.Sigmoid(x)
    new = pointwise.Add(pointwise.Mul(f, h), pointwise.Mul(pointwise.Sub(source.scalar(1.0), f), x))
    body = graph_of("step", {"h": new, "y": b.rng.choice((new, pointwise.Tanh(new)))}, [h, x])
    xs = b.of(tensor(DType.F32, B, T, 4))
    return recurrence.Scan((b.of(step),), (xs,), (), body, 1).results[1]


IDIOMS = (_straight_through, _fake_quantised_layer, _exponential_average)


def random_graph(seed: int, size: int = 20) -> Graph:
    """A verified graph of about `size` operations; the same one for the same arguments."""
    rng = random.Random(seed)
    b = Builder(rng)
    kinds = sorted(MAKERS)
    while len(b.values) < size:
        layer = Origin(f"layers.{rng.randrange(3)}", f"model.py:{rng.randrange(99)}")
        with origin(rng.choice((None, layer))):
            made = rng.choice(IDIOMS)(b) if rng.random() < 0.1 else MAKERS[rng.choice(kinds)](b)
        results = made.results if isinstance(made, Op) else (made,)
        b.values += [v for v in results if v.type.rank <= 4]  # what outgrows the probes is dropped
    inputs = list(dict.fromkeys(v for v in b.values if isinstance(v, source.Input)))
    inputs.append(source.Input("sizes", tensor(DType.F32, B, T)))  # gives every symbol its number
    if rng.random() < 0.5:
        inputs.append(source.Input("unused", tensor(DType.F32, T)))
    computed = [v for v in b.values if v not in b.sources] or b.values
    chosen = rng.sample(computed, min(len(computed), rng.randint(1, 4)))
    outputs: dict[str, Value] = {f"y{n}": value for n, value in enumerate(chosen)}
    states = [v for v in inputs if v.name not in ("unused", "sizes")]
    if states and rng.random() < 0.5:  # a state: an output with the name of an input
        state = rng.choice(states)
        outputs[state.name] = pointwise.Detach(state)
    rng.shuffle(inputs)
    return graph_of(f"g{seed}", outputs, inputs)


graphs = st.builds(random_graph, st.integers(0, 2**32 - 1), st.integers(1, 40))
"""The hypothesis strategy; it shrinks towards few operations."""


def random_array(rng: np.random.Generator, declared: TensorType) -> np.ndarray:
    """Numbers that fit the type; integers are small enough to index with."""
    declared = declared.bind(SIZES)
    dims = static_shape(declared.shape)
    match declared.dtype:
        case DType.BOOL:
            return rng.integers(0, 2, dims).astype(np.bool_)
        case DType.I8:
            return rng.integers(-128, 128, dims).astype(np.int8)
        case DType.I32 | DType.I64 | DType.U8:
            return rng.integers(1, 5, dims).astype(declared.dtype.numpy)
        case DType.TERNARY:
            return rng.integers(-1, 2, dims).astype(np.int8)
        case _ if declared.dtype.layout is not None:
            return pack(rng.integers(-1, 2, dims).astype(np.int8), declared.dtype.layout)
        case _:
            return rng.normal(size=dims).astype(declared.dtype.numpy)


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {op.name: random_array(rng, op.type) for op in graph.inputs}


def random_tensors(graph: Graph, seed: int = 0) -> Tensors:
    """A tensor for each weight; scales of ternary matrices are positive."""
    rng = np.random.default_rng(seed)
    tensors = Tensors()
    scales = {v for op in graph if isinstance(op, ternary.ExpandTernary) for v in (op.scale,)}
    for op in graph.weights:
        array = random_array(rng, op.type)
        content = np.asarray(np.abs(array) + np.float32(0.1)) if op in scales else array
        named = tensors.add(op.name, op.type, content)
        assert named is op
    return tensors


def check_types(op: Op, made: Arrays) -> Arrays:
    """For `evaluate(observe=...)`: every result has the dtype and shape that `infer` promised."""
    for declared, array in zip(op.types, made, strict=True):
        if declared.dtype.layout is None:
            wanted = declared.bind(SIZES)
            found = (np.asarray(array).dtype, np.shape(array))
            assert found == (wanted.dtype.numpy, wanted.shape), (
                f"{op.mnemonic}: {found}, not {wanted}"
            )
    return made


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Bit for bit, but for the payload of NaN."""
    a, b = np.asarray(left), np.asarray(right)
    if a.dtype == ml_dtypes.bfloat16:
        a, b = a.astype(np.float32), b.astype(np.float32)
    equal = np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return equal and left.dtype == right.dtype


Outputs = Mapping[str, np.ndarray]


def same_outputs(left: Outputs, right: Outputs) -> bool:
    return list(left) == list(right) and all(same(left[name], right[name]) for name in left)
