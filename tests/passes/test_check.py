"""The certificate: a pass that is broken on purpose is found, and its place named.

Each case replaces a right rule or pass by one with a single mistake that is easily made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from mmc.ir.compare import relative_error
from mmc.ir.graph import Graph, Mapped, graph_of
from mmc.ir.op import Op, Origin, Value, origin
from mmc.ir.ops.linear import Linear
from mmc.ir.ops.norm import RmsNorm, RmsStatistic
from mmc.ir.ops.pointwise import (
    Abs,
    Add,
    Cast,
    Clamp,
    Div,
    Mul,
    Neg,
    Round,
    Sigmoid,
    Silu,
    Sub,
    Tanh,
)
from mmc.ir.ops.recurrence import LinearRecurrence, Scan
from mmc.ir.ops.reduce import Max
from mmc.ir.ops.shape import Reshape, Slice, TakePosition
from mmc.ir.ops.source import Constant, Weight, scalar
from mmc.ir.ops.ternary import (
    AbsMax,
    Dequantize,
    ExpandTernary,
    FactoredQuantize,
    Quantize,
    RmsNormQuantize,
    ScaleQuantize,
    TernaryMatmul,
)
from mmc.ir.tensors import Tensors
from mmc.ir.types import DType, TensorType
from mmc.passes.base import Log, Pass, RulePass
from mmc.passes.check import PassCheck, check_pass, tie
from mmc.passes.manager import PassManager
from mmc.passes.registry import load_pass
from mmc.passes.rewrite import AnyRule, rule, rule_for
from tests.inputs import B, T, given, weight
from tests.random_graphs import random_inputs, random_tensors


def placed(path: str, make: Callable[[], Any]) -> Any:
    with origin(Origin(path)):
        return make()


X = given("x", B, T, 8)


def check(graph: Graph, each: Pass, tensors: Tensors | None = None) -> PassCheck:
    tensors = random_tensors(graph) if tensors is None else tensors
    step = PassManager(tensors).run_one(graph, each)
    probes = [random_inputs(graph)]
    return check_pass(each.name, step.before, step.after, step.mapped, tensors, probes)


def rules(name: str, *given: AnyRule) -> RulePass:
    return RulePass(name, given)


# Graphs that the right passes rewrite.


def quantiser(mode: str = "half_even") -> Graph:
    """A quantiser spelt out, behind a norm."""

    def make() -> Value:
        x = RmsNorm(X, None, 1e-6)
        scale = Div(scalar(127.0), Clamp(Max(Abs(x)), 1e-5, None))
        return Div(Clamp(Round(Mul(x, scale), mode), -128, 127), scale)

    return graph_of("quantiser", {"y": placed("layers.1.quant", make)})


def normed() -> Graph:
    def make() -> Op:
        normed = RmsNorm(Tanh(X), weight("gain", 8), 1e-6)
        return Quantize(normed, AbsMax())

    q, s = placed("layers.1.norm", make)
    return graph_of("normed", {"q": q, "s": s})


def bitlinear(bias: bool = False, row: bool = True) -> Graph:
    def make() -> Value:
        q, s = Quantize(X, AbsMax())
        trits = weight("up.trits", 8, 8, dtype=DType.TERNARY)
        scale = weight("up.scale", *([8] if row else []))
        layer = Linear(
            Dequantize(q, s), ExpandTernary(trits, scale), weight("up.bias", 8) if bias else None
        )
        return Silu(layer)

    return graph_of("bitlinear", {"y": placed("layers.1.mlp.up", make)})


def gates() -> Graph:
    f, c, h0 = given("f", B, T, 8), given("c", B, T, 8), given("h", B, 8)

    def make() -> Op:
        h, x, z = given("h", B, 8), given("c", B, 8), given("f", B, 8)
        keep = Sigmoid(z)
        new = Add(Mul(keep, h), Mul(Sub(scalar(1.0), keep), x))
        body = graph_of("step", {"h": new, "y": new}, [h, x, z])
        return Scan((h0,), (c, f), (), body, 1)

    last, y = placed("layers.1.mixer", make)
    return graph_of("gates", {"h": last, "y": y})


def bounds() -> Graph:
    """Three layers, each with its own lower bound for the gate."""
    value: Value = X
    for n in range(3):

        def make(value: Value = value, n: int = n) -> Value:
            bound = weight(f"bound.{n}", 8)
            keep = Add(bound, Mul(Sub(scalar(1.0), bound), Sigmoid(value)))
            return Mul(Neg(value), keep)

        value = placed(f"layers.{n}.gate", make)
    return graph_of("bounds", {"y": value})


def head() -> Graph:
    h = placed("layers.1", lambda: LinearRecurrence(X, X, given("h", B, 8)))
    logits = placed("lm_head", lambda: RmsNorm(h, None, 1e-6))
    last = Reshape(Slice(h, 1, T - 1, 1), (B, 8))
    return graph_of(
        "head", {"logits": logits, "h": last}, [X, given("lengths", B, dtype=DType.I64)]
    )


# Rules with a mistake in them.


def _scale(x: Value, top: float, eps: float, of: TensorType) -> Value:
    return Div(Constant(top, of), Clamp(Max(Abs(x), -1, True), eps, None))


def quantiser_with(change: Callable[[AbsMax], AbsMax]) -> RulePass:
    """`round_to_int8`, but for one field of the quantiser."""

    @rule_for(Clamp)
    def round_to_int8(op: Clamp) -> Value | None:
        """Broken."""
        match op:
            case Clamp(Round(Mul(x, Div(Constant(top, _), Clamp(_, eps, None))), mode), low, high):
                by = change(AbsMax(top, int(low or 0), int(high or 0), eps or 0, mode))
                return Cast(Quantize(x, by).results[0], DType.F32)
            case _:
                return None

    return rules("find-activation-quantiser", round_to_int8)


@rule
def inverted_scale(
    x: Value, top: float, eps: float, of: TensorType, q: Value
) -> tuple[Value, Value]:
    """Q / scale became q * scale."""
    return Div(q, _scale(x, top, eps, of)) >> Mul(q, _scale(x, top, eps, of))


@rule
def dropped_gain(x: Value, gain: Value, eps: float, by: AbsMax) -> tuple[Value, Value]:
    """The gain is lost."""
    return Quantize(RmsNorm(x, gain, eps), by) >> RmsNormQuantize(x, None, eps, by)


@rule
def wrong_eps(x: Value, gain: Value, eps: float, by: AbsMax) -> tuple[Value, Value]:
    """The eps of the quantiser is not that of the norm."""
    return Quantize(RmsNorm(x, gain, eps), by) >> RmsNormQuantize(x, gain, 1e-2, by)


@rule
def other_range(x: Value, gain: Value, eps: float) -> tuple[Value, Value]:
    """A range of 128 instead of 127."""
    before = Quantize(RmsNorm(x, gain, eps), AbsMax())
    return before >> RmsNormQuantize(x, gain, eps, AbsMax(range=128.0))


@rule
def lost_bias(q: Value, s: Value, t: Value, scale: Value, bias: Value) -> tuple[Value, Value]:
    """The bias is lost."""
    layer = Linear(Dequantize(q, s), ExpandTernary(t, scale), bias)
    return layer >> Dequantize(TernaryMatmul(q, t), s, scale)


@rule
def early_bias(q: Value, s: Value, t: Value, scale: Value, bias: Value) -> tuple[Value, Value]:
    """The bias enters before the step of the activations."""
    layer = Linear(Dequantize(q, s), ExpandTernary(t, scale), bias)
    return layer >> Mul(Add(Dequantize(TernaryMatmul(q, t), s, scale), bias), s)


@rule
def lost_weight_scale(q: Value, s: Value, t: Value, scale: Value) -> tuple[Value, Value]:
    """The scale of the weights is lost."""
    layer = Linear(Dequantize(q, s), ExpandTernary(t, scale))
    return layer >> Dequantize(TernaryMatmul(q, t), s)


@rule
def negated(x: Value) -> tuple[Value, Value]:
    """A sign is lost."""
    return Silu(x) >> Neg(Tanh(x))


@dataclass(frozen=True)
class Changed(Pass):
    """The right pass, and then one mistake."""

    right: str
    mistake: Callable[[Op], Value | None]

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.right

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        middle, mapped = load_pass(self.right).run(graph, tensors, log)

        def step(old: Op, moved: Op) -> Value:
            with origin(old.origin):
                return self.mistake(moved) or moved

        after, again = middle.map(step)
        return after, {old: again[new] for old, new in mapped.items() if new in again}


@dataclass(frozen=True)
class NextBound(Pass):
    """The lower bound of each layer is that of the next."""

    name: ClassVar[str] = "fold-constants"

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        def step(_: Op, moved: Op) -> Value:
            if not (isinstance(moved, Add) and isinstance(moved.x, Weight)):
                return moved
            layer = min(int(moved.x.name[-1]) + 1, 2)
            with origin(moved.origin):
                return Add(weight(f"bound.{layer}", 8), moved.y)

        return graph.map(step)


def swap_gates(op: Op) -> Value | None:
    """H' = (1 - a) h + b: the gates trade places."""
    if isinstance(op, LinearRecurrence):
        return LinearRecurrence(Sub(scalar(1.0), op.a), op.b, op.h0, op.axis)
    return None


def off_by_one(op: Op) -> Value | None:
    """The position before the last."""
    if isinstance(op, TakePosition) and isinstance(op.index, Sub):
        before = Sub(op.index, scalar(1, DType.I64))
        return TakePosition(op.x, Clamp(before, 0, None))
    return None


def first_state(op: Op) -> Value | None:
    """The recurrence begins with zero instead of the state."""
    if isinstance(op, LinearRecurrence):
        return LinearRecurrence(op.a, op.b, Mul(op.h0, scalar(0.0)), op.axis)
    return None


def swap_slices(op: Op) -> Value | None:
    """Gate and up trade places."""
    if isinstance(op, Slice) and isinstance(op.start, int) and op.axis == -1:
        return Slice(op.x, op.axis, 8 - op.start, op.length)
    return None


def other_statistic(op: Op) -> Value | None:
    """The shared statistic has an eps of its own."""
    return RmsStatistic(op.x, 1e-2) if isinstance(op, RmsStatistic) else None


def unfactored(op: Op) -> Value | None:
    """The number of the norm before is lost."""
    if isinstance(op, FactoredQuantize) and isinstance(op.r, Mul):
        return FactoredQuantize(op.x, op.r.y, op.gain, op.by)
    return None


def truncated(op: Op) -> Value | None:
    """Activations are smaller by a part in two hundred: one less, now and then."""
    if isinstance(op, FactoredQuantize):
        return FactoredQuantize(op.x, op.r, op.gain, replace(op.by, range=op.by.range * 0.995))
    return None


def dropped_gains(op: Op) -> Value | None:
    """The gains of both norms are lost."""
    return ScaleQuantize(op.x, op.r, None, op.by) if isinstance(op, ScaleQuantize) else None


def projections() -> Graph:
    q, _ = Quantize(X, AbsMax())
    names = "gate", "up"
    made = {
        n: placed(
            f"layers.1.mlp.{n}",
            lambda n=n: TernaryMatmul(q, weight(f"{n}.trits", 8, 8, dtype=DType.TERNARY)),
        )
        for n in names
    }
    return graph_of("projections", made)


def two_norms() -> Graph:
    norms = {
        n: placed(
            f"layers.1.{n}",
            lambda n=n: RmsNormQuantize(X, weight(f"gain.{n}", 8), 1e-6, AbsMax()),
        )
        for n in "if"
    }
    results = ((f"{n}.{k}", v) for n, op in norms.items() for k, v in zip("qs", op, strict=True))
    return graph_of("two", dict(results))


def norm_of_norm() -> Graph:
    def make() -> Op:
        u = Mul(RmsNorm(X, weight("gain", 8), 1e-6), Sigmoid(given("g", B, T, 8)))
        return RmsNormQuantize(u, weight("gain.2", 8), 1e-5, AbsMax())

    q, s = placed("layers.1.norm", make)
    return graph_of("factors", {"q": q, "s": s})


def rounding(by: AbsMax) -> AbsMax:
    other = {"half_even": "half_away", "half_away": "half_up", "half_up": "half_even"}
    return replace(by, rounding=other[by.rounding])


@dataclass(frozen=True)
class Broken:
    """A graph, a pass with a mistake, and the place where the mistake must show.

    The graph is made when it is asked for: operations are shared by all tests, and so are origins.
    """

    graph: Callable[[], Graph]
    mistake: Pass
    place: str


def act(rule: AnyRule | RulePass) -> RulePass:
    return rule if isinstance(rule, RulePass) else rules("find-activation-quantiser", rule)


def with_bias() -> Graph:
    return bitlinear(bias=True)


QUANT, NORM, UP, MIXER = "layers.1.quant", "layers.1.norm", "layers.1.mlp.up", "layers.1.mixer"
EPS = quantiser_with(lambda by: replace(by, eps=9.0))
RANGE = quantiser_with(lambda by: replace(by, range=128.0))
FUSE, TERNARY = "fuse-norm-quantize", "matmul-to-ternary"

BROKEN: dict[str, Broken] = {
    "half_even_as_half_away": Broken(quantiser, quantiser_with(rounding), QUANT),
    "half_away_as_half_up": Broken(lambda: quantiser("half_away"), quantiser_with(rounding), QUANT),
    "half_up_as_half_even": Broken(lambda: quantiser("half_up"), quantiser_with(rounding), QUANT),
    "quantiser_eps": Broken(quantiser, EPS, QUANT),
    "quantiser_range": Broken(quantiser, RANGE, QUANT),
    "scale_inverted": Broken(quantiser, act(inverted_scale), QUANT),
    "dropped_gain": Broken(normed, rules(FUSE, dropped_gain), NORM),
    "norm_eps": Broken(normed, rules(FUSE, wrong_eps), NORM),
    "range_128": Broken(normed, rules(FUSE, other_range), NORM),
    "bias_lost": Broken(with_bias, rules(TERNARY, lost_bias), f"{UP}: dequantize"),
    "bias_early": Broken(with_bias, rules(TERNARY, early_bias), f"{UP}: mul"),
    "weight_scale_lost": Broken(bitlinear, rules(TERNARY, lost_weight_scale), UP),
    "sign_lost": Broken(bitlinear, rules("canonicalize", negated), f"{UP}: neg"),
    "gates_swapped": Broken(gates, Changed("find-recurrence", swap_gates), MIXER),
    "state_lost": Broken(gates, Changed("find-recurrence", first_state), MIXER),
    "bound_of_next_layer": Broken(bounds, NextBound(), "layers.0.gate: add"),
    "last_position": Broken(head, Changed("last-position", off_by_one), "lm_head: rms_norm"),
    "slices_swapped": Broken(
        projections, Changed("merge-projections", swap_slices), "layers.1.mlp.up: slice"
    ),
    "statistic_eps": Broken(
        two_norms, Changed("share-statistics", other_statistic), "layers.1.i: scale_quantize"
    ),
    "gain_of_one_dropped": Broken(
        two_norms, Changed("share-statistics", dropped_gains), "layers.1.i: scale_quantize"
    ),
    "factor_lost": Broken(norm_of_norm, Changed("factor-norms", unfactored), NORM),
    "factored_range": Broken(norm_of_norm, Changed("factor-norms", truncated), NORM),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_mistake_is_found_and_its_place_is_named(broken: Broken) -> None:
    found = check(broken.graph(), broken.mistake)
    assert not found.holds
    name = broken.mistake.name
    assert all(failure.startswith(f"{name}: ") for failure in found.failures)
    assert broken.place in found.failures[0], found.failures
    assert found.record()["holds"] is False


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_the_right_pass_holds(broken: Broken) -> None:
    """The same graph through the pass as it is: what is found is the mistake, not the graph."""
    name = broken.mistake.name
    found = check(broken.graph(), load_pass(name))
    assert found.holds, found.failures
    assert found.values > 0 or name in ("canonicalize", "fold-constants")


def test_a_rounding_shows_on_ties_alone() -> None:
    """Without the probe of ties nobody would see it: random numbers are never half way."""
    found = check(quantiser(), quantiser_with(rounding))
    assert len(found.failures) == 1


def test_only_the_layer_with_the_mistake_fails() -> None:
    """The new graph goes on with the old numbers, so an error does not spread."""
    found = check(bounds(), NextBound())
    assert {failure.split(": ")[1] for failure in found.failures} == {
        "layers.0.gate",
        "layers.1.gate",
    }


def test_integers_must_be_identical() -> None:
    found = PassCheck("p", "g")
    q = Quantize(X, AbsMax())
    found.compare(q, np.array([1, 2, 3], np.int8), np.array([1, 2, 3], np.int8))
    assert found.holds
    found.compare(q, np.array([1, 2, 3], np.int8), np.array([1, 3, 3], np.int8))
    assert not found.integers_identical
    assert len(found.failures) == 1
    assert found.failures[0].endswith("quantize: 1 of 3 integers differ")
    assert (found.values, found.integers) == (2, 6)


@pytest.mark.parametrize(
    ("old", "new", "holds"),
    [
        ([1.0, 100.0], [1.0005, 100.0], True),  # 5e-6 of the largest
        ([1.0, 100.0], [1.002, 100.0], False),
        ([1.0, np.nan], [1.0, np.nan], True),
        ([1.0, np.nan], [1.0, 2.0], False),
        ([1.0, np.inf], [1.0, np.inf], True),
        ([1.0, np.inf], [1.0, -np.inf], False),
        ([0.0, 0.0], [0.0, 1e-3], False),
        ([0.0, -0.0], [-0.0, 0.0], True),
    ],
)
def test_floats(old: Sequence[float], new: Sequence[float], holds: bool) -> None:
    found = PassCheck("p", "g")
    found.compare(X, np.array(old, np.float32), np.array(new, np.float32))
    assert found.holds is holds
    assert found.float_error == relative_error(np.array(old, np.float32), np.array(new, np.float32))


def test_a_type_that_changed_is_a_failure() -> None:
    found = PassCheck("p", "g")
    found.compare(X, np.zeros(3, np.float32), np.zeros(4, np.float32))
    found.compare(X, np.zeros(3, np.float32), np.zeros(3, np.float64))
    assert [f.split(": ")[-1] for f in found.failures] == [
        "float32[3] became float32[4]",
        "float32[3] became float64[3]",
    ]


def test_an_output_whose_shape_changed_is_not_passed_over() -> None:
    before = graph_of("g", {"y": Neg(X)})
    after = graph_of("g", {"y": Slice(Neg(X), -1, 0, 4)}, [X])
    found = check_pass("p", before, after, {}, Tensors(), [random_inputs(before)])
    assert not found.holds


def test_ties_are_half_way_and_their_scale_is_one() -> None:
    tied = tie(np.zeros((3, 8), np.float32))
    assert np.abs(tied).max() == 127
    assert (np.abs(tied[:, 1:]) % 1 == 0.5).all()
    by = AbsMax()
    q, step = by.quantize(tied)
    assert (step == 1).all()
    assert (q[:, 1:] % 2 == 0).all()  # half to even
    away, _ = AbsMax(rounding="half_away").quantize(tied)
    assert (away != q).any()


def test_a_pass_that_does_nothing_compares_nothing() -> None:
    graph = graph_of("g", {"y": Neg(X)})
    found = check_pass("p", graph, graph, {}, Tensors(), [random_inputs(graph)])
    assert (found.holds, found.values) == (True, 0)


def test_only_what_is_undecided_may_flip() -> None:
    q = Quantize(X, AbsMax())
    old, undecided = np.zeros(4, np.int8), np.array([True, True, False, False])
    for changes, flips, holds in (([1, -1], 2, True), ([2], 0, False), ([0, 0, 1], 0, False)):
        new = old.copy()
        new[: len(changes)] += np.array(changes, np.int8)
        found = PassCheck("p", "g")
        found.compare(q, old, new, undecided)
        assert (found.holds, found.flips) == (holds, flips)
        assert not found.integers_identical


def test_factored_norms_flip_what_is_undecided_alone() -> None:
    """Thousands of rows: some activations round the other way, and the check believes each."""
    graph = norm_of_norm()
    step = PassManager(tensors := random_tensors(graph)).run_one(graph, load_pass("factor-norms"))
    rng = np.random.default_rng(0)
    probe = {n: rng.normal(size=(2, 40_000, 8)).astype(np.float32) for n in ("x", "g")}
    found = check_pass(step.name, step.before, step.after, step.mapped, tensors, [probe])
    assert found.holds
    assert 0 < found.flips < 1e-4 * found.integers
