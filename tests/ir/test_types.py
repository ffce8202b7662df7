"""Types: dimensions are polynomials that print, parse, bind and broadcast."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmc.ir.types import (
    Dim,
    DType,
    Shape,
    SymbolicDim,
    TensorType,
    bind_dim,
    broadcast,
    numel,
    parse_dim,
    static_shape,
    symbol,
)

B, T = symbol("B"), symbol("T")

dims: st.SearchStrategy[Dim] = st.recursive(
    st.integers(-9, 9) | st.sampled_from([B, T, symbol("layers.0_n")]),
    lambda inner: st.tuples(inner, inner, st.sampled_from("+-*")).map(
        lambda t: {"+": t[0] + t[1], "-": t[0] - t[1], "*": t[0] * t[1]}[t[2]]
    ),
    max_leaves=6,
)
VALUES = {"B": 3, "T": 7, "layers.0_n": 2}


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (B * T + 3, "B*T+3"),
        (T + 3, "T+3"),
        (3 + T, "T+3"),
        (T - 1, "T-1"),
        (5 - T, "-T+5"),
        (2 * T, "2*T"),
        (T * B * -2, "-2*B*T"),
        (T * T, "T*T"),
        (T + T, "2*T"),
        (T * 0 + 4, "4"),
    ],
)
def test_a_dimension_has_one_spelling(dim: Dim, text: str) -> None:
    assert str(dim) == text
    assert parse_dim(text) == dim


def test_equal_polynomials_are_equal() -> None:
    assert (B + T) * (B - T) == B * B - T * T
    assert B * T == T * B
    assert B != T
    assert (B - B, type(B - B)) == (0, int)
    assert (B - B + 3, type(B - B + 3)) == (3, int)


@given(dims)
def test_text_of_a_dimension_round_trips(dim: Dim) -> None:
    assert parse_dim(str(dim)) == dim


@given(dims, dims)
def test_binding_commutes_with_arithmetic(x: Dim, y: Dim) -> None:
    left, right = bind_dim(x, VALUES), bind_dim(y, VALUES)
    assert bind_dim(x + y, VALUES) == left + right
    assert bind_dim(x * y, VALUES) == left * right
    assert bind_dim(x - y, VALUES) == left - right


def test_binding_in_part_leaves_the_other_symbols() -> None:
    assert bind_dim(B * T + T, {"B": 2}) == 3 * T
    assert SymbolicDim(((("B", "T"), 2), ((), 1))).symbols == {"B", "T"}
    bound = TensorType(DType.F32, (B, T, 8)).bind({"B": 1})
    assert bound == TensorType(DType.F32, (1, T, 8))


@pytest.mark.parametrize("text", ["", "-", "T+", "T**2", "(T)", "2T", "1.5", "1e5", "T 1", "T+-3"])
def test_other_texts_are_no_dimension(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_dim(text)


@pytest.mark.parametrize("name", ["", "2", "a b", "a*b", "-T"])
def test_a_symbol_has_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name"):
        symbol(name)


@pytest.mark.parametrize(
    ("shapes", "common"),
    [
        ([(B, T, 8), (8,)], (B, T, 8)),
        ([(B, 1, 8), (T, 1)], (B, T, 8)),
        ([(), ()], ()),
        ([(1,), (B,), (1, 1)], (1, B)),
        ([(B * T, 1), (T * B, 4)], (B * T, 4)),
        ([(0,), (1,)], (0,)),
    ],
)
def test_broadcast(shapes: list[Shape], common: Shape) -> None:
    assert broadcast(*shapes) == common
    numbers = [tuple(bind_dim(d, VALUES) for d in s) for s in shapes]
    wanted = np.broadcast_shapes(*(static_shape(s) for s in numbers))
    assert static_shape(tuple(bind_dim(d, VALUES) for d in common)) == wanted


@pytest.mark.parametrize("shapes", [[(B,), (T,)], [(2,), (3,)], [(B, 1), (4, 4)], [(0,), (2,)]])
def test_shapes_that_do_not_broadcast(shapes: list[Shape]) -> None:
    with pytest.raises(ValueError, match="do not broadcast"):
        broadcast(*shapes)


def test_static_shape_names_the_symbol_that_is_left() -> None:
    assert static_shape((2, 3)) == (2, 3)
    with pytest.raises(ValueError, match=re.escape("B*T has no value")):
        static_shape((2, B * T))


def test_numel() -> None:
    assert numel(()) == 1
    assert numel((B, T, 4)) == 4 * B * T
    assert numel((B, 0)) == 0


def test_element_types() -> None:
    assert str(TensorType(DType.BF16, (B, T + 1, 8))) == "bf16[B, T+1, 8]"
    assert [d for d in DType if d.is_float] == [DType.F32, DType.F16, DType.BF16]
    packed = [DType.TERNARY_2BIT, DType.TERNARY_1_67BIT, DType.TERNARY_1_6BIT]
    assert [d for d in DType if d.is_ternary] == [DType.TERNARY, *packed]
    assert [d.layout for d in DType if d.layout] == ["2bit", "1.67bit", "1.6bit"]
    assert {d.numpy.itemsize for d in (DType.BF16, DType.F16)} == {2}
    assert isinstance(T + 1, SymbolicDim)
