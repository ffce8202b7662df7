"""The rewrite engine: what a pattern matches, and what it must not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Op, Origin, Value, origin
from mmc.ir.ops.norm import RmsNorm
from mmc.ir.ops.pointwise import Abs, Add, Cast, Clamp, Exp, Mul, Neg, Sub, Tanh
from mmc.ir.ops.shape import Concat, Reshape
from mmc.ir.ops.source import Constant, scalar
from mmc.ir.ops.ternary import AbsMax, Dequantize, Quantize, RmsNormQuantize
from mmc.ir.types import DType, Shape, TensorType
from mmc.passes.rewrite import AnyRule, Once, Rule, rewrite, rule, rule_for, rule_if
from tests.inputs import B, given

X, Y, Z = given("x", B, 8), given("y", B, 8), given("z", B, 8)


def apply(rules: Sequence[AnyRule], *values: Value) -> tuple[tuple[Value, ...], Counter[str]]:
    graph = graph_of("g", {f"y{n}": value for n, value in enumerate(values)})
    fired: Counter[str] = Counter()
    after, _ = rewrite(graph, rules, lambda r, _: fired.update([r.name]))
    after.verify()
    return after.values, fired


def one(rules: Sequence[AnyRule], value: Value) -> Value:
    return apply(rules, value)[0][0]


@rule
def factor_out(x: Value, y: Value, z: Value) -> tuple[Value, Value]:
    """X y + x z is x (y + z)."""
    return Add(Mul(x, y), Mul(x, z)) >> Mul(x, Add(y, z))


@pytest.mark.parametrize(
    "value",
    [
        Add(Mul(X, Y), Mul(X, Z)),
        Add(Mul(Y, X), Mul(X, Z)),
        Add(Mul(X, Y), Mul(Z, X)),
        Add(Mul(Y, X), Mul(Z, X)),
    ],
)
def test_a_repeated_hole_is_found_in_every_order(value: Value) -> None:
    """The first factor that fits may be the wrong one: the match has to go back."""
    assert one([factor_out], value) is Mul(X, Add(Y, Z))


def test_both_sides_of_an_addition_may_trade_places() -> None:
    @rule
    def plus_negation(x: Value, y: Value) -> tuple[Value, Value]:
        """X + exp(y) + -y."""
        return Add(Add(x, Neg(y)), Exp(y)) >> Sub(x, y)

    for value in (
        Add(Add(X, Neg(Y)), Exp(Y)),
        Add(Exp(Y), Add(X, Neg(Y))),
        Add(Exp(Y), Add(Neg(Y), X)),
    ):
        assert one([plus_negation], value) is Sub(X, Y)
    kept = Add(Exp(Y), Add(Neg(X), X))
    assert one([plus_negation], kept) is kept


def test_operands_of_other_operations_stay_in_order() -> None:
    @rule
    def minus_negation(x: Value, y: Value) -> tuple[Value, Value]:
        """X - -y is x + y."""
        return Sub(x, Neg(y)) >> Add(x, y)

    assert one([minus_negation], Sub(X, Neg(Y))) is Add(X, Y)
    assert one([minus_negation], Sub(Neg(Y), X)) is Sub(Neg(Y), X)


@rule
def negation_twice_once(x: Value) -> tuple[Value, Value]:
    """- -x is x where nothing else reads -x."""
    return Neg(Once(Neg(x))) >> x


def test_once_asks_for_a_single_reader() -> None:
    assert one([negation_twice_once], Neg(Neg(X))) is X
    assert apply([negation_twice_once], Neg(Neg(X)), Exp(Neg(X)))[1] == {}


def test_once_counts_the_outputs_of_the_graph() -> None:
    values, fired = apply([negation_twice_once], Neg(Neg(X)), Neg(X))
    assert fired == {}
    assert values == (Neg(Neg(X)), Neg(X))


def test_once_counts_readers_that_read_twice() -> None:
    @rule
    def add_once(x: Value, y: Value) -> tuple[Value, Value]:
        """X + y with an operand that is read here alone."""
        return Add(Once(Exp(x)), y) >> Sub(x, y)

    assert apply([add_once], Add(Exp(X), Exp(X)))[1] == {}
    assert one([add_once], Add(Y, Exp(X))) is Sub(X, Y)


def test_once_counts_results_of_one_operation_together() -> None:
    @rule
    def requantize_once(x: Value, by: AbsMax) -> tuple[Value, Value]:
        """A quantiser that only this dequantisation reads."""
        op = Quantize(x, by)
        q, s = op
        return Dequantize(q, s) >> Tanh(x)

    q, s = Quantize(X, AbsMax())
    assert one([requantize_once], Dequantize(q, s)) is Tanh(X)


def test_several_results() -> None:
    @rule
    def dequantized_again(q: Value, s: Value, by: AbsMax) -> tuple[Value, Value]:
        """Quantising what was just dequantised."""
        again, _ = Quantize(Dequantize(q, s), by)
        return Dequantize(again, s) >> Dequantize(q, s)

    q, s = Quantize(X, AbsMax())
    second, steps = Quantize(Dequantize(q, s), AbsMax())
    assert one([dequantized_again], Dequantize(second, s)) is Dequantize(q, s)
    kept = Dequantize(second, steps)  # another s: the hole is repeated
    assert one([dequantized_again], kept) is kept


def test_a_result_is_matched_by_its_number() -> None:
    @rule
    def negated_step(x: Value, by: AbsMax) -> tuple[Value, Value]:
        """The second result, not the first."""
        _, s = Quantize(x, by)
        return Neg(s) >> s

    q, s = Quantize(X, AbsMax())
    values, fired = apply([negated_step], Neg(s), Neg(q))
    assert fired == {"negated_step": 1}
    assert values == (s, Neg(q))


def test_an_operation_with_several_results_is_replaced_whole() -> None:
    @rule
    def fuse(x: Value, gain: Value, eps: float, by: AbsMax) -> tuple[Value, Value]:
        """As `fuse-norm-quantize` does."""
        return Quantize(RmsNorm(x, gain, eps), by) >> RmsNormQuantize(x, gain, eps, by)

    q, s = Quantize(RmsNorm(X, None, 1e-6), AbsMax(eps=0.5))
    after = RmsNormQuantize(X, None, 1e-6, AbsMax(eps=0.5))
    assert apply([fuse], q, s, Neg(s))[0] == (*after.results, Neg(after.results[1]))


def test_a_repeated_hole_may_be_a_result() -> None:
    """Results are made anew each time they are asked for: equal, not one object."""

    @rule
    def twice(x: Value) -> tuple[Value, Value]:
        """X + x."""
        return Add(x, x) >> Mul(x, scalar(2, DType.I8))

    op = Quantize(X, AbsMax())
    total = Add(op.results[0], op.results[0])
    assert one([twice], total) is Mul(op.results[0], scalar(2, DType.I8))


def test_attribute_holes() -> None:
    @rule
    def clamps_of_one_bound(x: Value, bound: float) -> tuple[Value, Value]:
        """The same bound below and above."""
        return Clamp(x, bound, bound) >> Clamp(Neg(x), bound, None)

    assert one([clamps_of_one_bound], Clamp(X, 2.0, 2.0)) is Clamp(Neg(X), 2.0, None)
    kept = Clamp(X, 2.0, 3.0)
    assert one([clamps_of_one_bound], kept) is kept


def test_a_plain_attribute_must_be_the_same() -> None:
    @rule
    def plus_one(x: Value, of: TensorType) -> tuple[Value, Value]:
        """1.0, not 1 and not True."""
        return Add(x, Constant(1.0, of)) >> Exp(x)

    assert one([plus_one], Add(X, scalar(1.0))) is Exp(X)
    for other in (1, True, 2.0):
        kept = Add(X, scalar(other))
        assert one([plus_one], kept) is kept


def test_records_are_taken_apart() -> None:
    @rule
    def other_rounding(x: Value, eps: float, top: float) -> tuple[Value, Value]:
        """Of one rounding alone; the other fields go through."""
        before = AbsMax(top, -128, 127, eps, "half_even")
        return Quantize(x, before) >> Quantize(x, AbsMax(top, -127, 127, eps, "half_up"))

    (q, s), _ = apply([other_rounding], *Quantize(X, AbsMax(eps=0.5)))
    assert (q, s) == Quantize(X, AbsMax(low=-127, eps=0.5, rounding="half_up")).results
    kept = Quantize(X, AbsMax(rounding="half_away")).results
    assert apply([other_rounding], *kept)[0] == kept


def test_tuples_of_operands_are_taken_apart() -> None:
    @rule
    def concat_of_negations(x: Value, y: Value, axis: int) -> tuple[Value, Value]:
        """Two parts, both negated."""
        return Concat((Neg(x), Neg(y)), axis) >> Neg(Concat((x, y), axis))

    assert one([concat_of_negations], Concat((Neg(X), Neg(Y)), 0)) is Neg(Concat((X, Y), 0))
    for kept in (Concat((Neg(X), Y), 0), Concat((Neg(X), Neg(Y), Neg(Z)), 0)):
        assert one([concat_of_negations], kept) is kept


def test_guards() -> None:
    @rule_if(lambda found: found["shape"] == found["x"].type.shape)
    def same_shape(x: Value, shape: Shape) -> tuple[Value, Value]:
        """Only where the shape is that of x."""
        return Reshape(x, shape) >> x

    assert one([same_shape], Reshape(X, (B, 8))) is X
    kept = Reshape(X, (8 * B,))
    assert one([same_shape], kept) is kept


def test_a_guard_may_refuse_one_match_and_take_the_next() -> None:
    @rule_if(lambda found: found["x"] is Y)
    def keep_y(x: Value, other: Value) -> tuple[Value, Value]:
        """Of two orders only one passes."""
        return Add(x, other) >> Neg(x)

    assert one([keep_y], Add(X, Y)) is Neg(Y)


def test_a_match_that_would_change_the_type_is_none() -> None:
    @rule
    def first(x: Value, y: Value) -> tuple[Value, Value]:
        """Right where y does not widen x."""
        return Mul(x, Exp(y)) >> x

    small = given("small", 8)
    assert one([first], Mul(X, Exp(small))) is X
    assert one([first], Mul(small, Exp(X))) is Mul(small, Exp(X))


def test_rules_in_code() -> None:
    @rule_for(Abs, Exp)
    def other(op: Abs | Exp) -> Value | None:
        """Two roots; None leaves the operation alone."""
        return Neg(op.x) if op.x is X else None

    assert apply([other], Abs(X), Exp(X), Abs(Y))[0] == (Neg(X), Neg(X), Abs(Y))
    assert (other.name, other.why) == ("other", "Two roots; None leaves the operation alone.")


def test_a_rule_tells_its_name_and_why() -> None:
    assert isinstance(factor_out, Rule)
    assert factor_out.name == "factor_out"
    assert factor_out.why == "X y + x z is x (y + z)."


def test_rules_fire_until_none_does() -> None:
    @rule
    def two_casts(x: Value, first: DType, second: DType) -> tuple[Value, Value]:
        """Of two casts the last (as a test: it is not right)."""
        return Cast(Cast(x, first), second) >> Cast(x, second)

    value: Value = X
    for n in range(9):
        value = Cast(value, DType.F16 if n % 2 else DType.I32)
    assert one([two_casts], value) is Cast(X, DType.I32)


def test_the_first_rule_that_matches_wins() -> None:
    @rule
    def to_exp(x: Value) -> tuple[Value, Value]:
        """First."""
        return Neg(x) >> Exp(x)

    @rule
    def to_tanh(x: Value) -> tuple[Value, Value]:
        """Second."""
        return Neg(x) >> Tanh(x)

    assert one([to_exp, to_tanh], Neg(X)) is Exp(X)
    assert one([to_tanh, to_exp], Neg(X)) is Tanh(X)


def test_what_takes_its_place_keeps_the_origin() -> None:
    @rule
    def to_exp(x: Value) -> tuple[Value, Value]:
        """Anything."""
        return Tanh(Tanh(x)) >> Exp(x)

    with origin(Origin("layers.5")):
        before = Tanh(Tanh(given("o", 3)))
    after = one([to_exp], before)
    assert isinstance(after, Op)
    assert str(after.origin) == "layers.5"


def test_every_value_is_mapped() -> None:
    graph: Graph = graph_of("g", {"y": Neg(Add(Mul(X, Y), Mul(X, Z)))})
    _, mapped = rewrite(graph, [factor_out], lambda _, __: None)
    assert mapped[Mul(X, Y)] is Mul(X, Y)
    assert mapped[Add(Mul(X, Y), Mul(X, Z))] is Mul(X, Add(Y, Z))
    assert mapped[graph.values[0]] is Neg(Mul(X, Add(Y, Z)))


def test_a_long_chain_of_firings_is_fast() -> None:
    value: Value = X
    for _ in range(4000):
        value = Exp(Neg(Neg(value)))
    _, fired = apply([negation_twice_once], value)
    assert fired == {"negation_twice_once": 4000}
