"""The text form: `parse` and `render` are inverses, and an error points at its place."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmc.ir.graph import Graph, graph_of
from mmc.ir.op import Op, Origin, origin
from mmc.ir.ops.pointwise import Abs, Neg
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.source import Constant, Input, Weight, scalar
from mmc.ir.ops.ternary import AbsMax, Quantize
from mmc.ir.text import ParseError, parse, render
from mmc.ir.types import DType, TensorType, symbol
from tests.random_graphs import random_graph

SOURCE = """\
graph @bitlinear {
  %x = input() name="x" : f32[B, T, 8]
  %norm.w = weight() name="norm.w" : f32[8]
  %quantize.q, %quantize.s = rms_norm_quantize(%x, %norm.w) eps=1e-06 \
by=absmax(range=127.0, low=-128, high=127, eps=1e-05, rounding="half_even", \
granularity="token") : i8[B, T, 8], f32[B, T, 1]
  %up = weight() name="up" : ternary[16, 8]
  %ternary_matmul = ternary_matmul(%quantize.q, %up) : i32[B, T, 16]
  %dequantize = dequantize(%ternary_matmul, %quantize.s, none) : f32[B, T, 16]
  %slice = slice(%dequantize) axis=1 start=T-1 length=1 step=1 : f32[B, 1, 16]
  return y=%slice
}
""".replace("%quantize", "%rms_norm_quantize")


def float_of(dtype: DType = DType.F32, *dims: int) -> TensorType:
    return TensorType(dtype, dims)


def test_text_round_trips() -> None:
    graph = parse(SOURCE)
    assert render(graph) == SOURCE
    assert parse(render(graph)) is graph


def test_round_trip_1000_random_graphs() -> None:
    for seed in range(1000):
        graph = random_graph(seed, 3 + seed % 40)
        text = render(graph)
        assert parse(text) is graph, text
        assert render(parse(text)) == text


def test_names_in_the_source_are_free() -> None:
    renamed = SOURCE.replace("%up", "%matrix").replace("%x", "%0")
    assert parse(renamed) is parse(SOURCE)


def test_names_build_on_origins_and_stay_local() -> None:
    x = Input("x", float_of(DType.F32, 4))
    with origin(Origin("layers.0.mlp", "model.py:3")):
        first = Abs(Neg(x))
    with origin(Origin("layers.1.mlp")):
        second = Neg(Abs(first))
    text = render(graph_of("g", {"y": second}))
    assert "%layers.0.mlp.abs = abs(%layers.0.mlp.neg) : f32[4]  # layers.0.mlp, model.py:3" in text
    assert "%layers.1.mlp.neg = neg(%layers.1.mlp.abs) : f32[4]  # layers.1.mlp" in text


def test_an_origin_is_read_back() -> None:
    text = """\
graph @origins {
  %in = input() name="in" : f32[3]
  %layers.9.a.neg = neg(%in) : f32[3]  # layers.9.a, model.py:77
  %layers.9.a.neg.2 = neg(%layers.9.a.neg) : f32[3]  # layers.9.a
  return y=%layers.9.a.neg.2
}
"""
    graph = parse(text)
    assert [op.origin for op in graph][1:] == [
        Origin("layers.9.a", "model.py:77"),
        Origin("layers.9.a"),
    ]
    assert render(graph) == text


def test_a_comment_on_its_own_line_is_no_origin() -> None:
    text = """\
# head
graph @comments { # of the graph
  # before
  %in = input() name="in.1" : f32[3]
  # about the next line
  %a = neg(%in) : f32[3]
  # at the end
  return y=%a # done
}
# after
"""
    assert [op.origin for op in parse(text)] == [None, None]


def test_an_origin_of_two_lines_stays_on_one() -> None:
    with origin(Origin("layers.8", "a\nb")):
        graph = graph_of("g", {"y": Neg(Input("odd", float_of()))})
    assert parse(render(graph)) is graph


def test_like_names_do_not_collide() -> None:
    f32 = float_of(DType.F32, 4)
    q, s = Quantize(Input("y", f32), AbsMax())
    outputs = {
        "a": Neg(Input("quantize.q", f32)),
        "b": q,
        "c": s,
        "d": Neg(Input("neg", f32)),
        "e": Abs(Neg(Input("neg.2", f32))),
        "f": Neg(Weight("neg", f32)),
        "g": Neg(Input("a.", f32)),
        "h": Neg(Input("a_", f32)),
        "i": Neg(Input("", f32)),
        "j": Neg(Input("...", f32)),
    }
    graph = graph_of("g", outputs)
    assert parse(render(graph)) is graph


@pytest.mark.parametrize(
    "name", ['"', "\\", "é ü 漢字", "a\nb", "\t", "%x", "# no", "\x00", "T", "1x", "-"]
)
def test_any_string_is_a_name(name: str) -> None:
    x = Input(name, float_of(DType.F32, 2))
    body = graph_of("kernel", {"a b": Neg(x), name: Abs(x)})
    kernel = Kernel((Weight(name, float_of(DType.F32, 2)),), body)
    first, second = kernel
    graph = graph_of(name, {name: first, "z": second})
    text = render(graph)
    assert parse(text) is graph
    assert render(parse(text)) == text


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        1e-45,
        -0.0,
        0.0,
        1e22,
        1.0,
        1,
        True,
        False,
        -7,
        0.1,
        1 / 3,
        2**70,
    ],
)
def test_a_number_is_read_back_exactly(value: float | int | bool) -> None:
    graph = graph_of("g", {"y": scalar(value)})
    assert parse(render(graph)) is graph
    [op] = [op for op in parse(render(graph)) if isinstance(op, Constant)]
    assert (repr(op.value), type(op.value)) == (repr(value), type(value))


@given(st.floats(allow_nan=True))
def test_any_float_is_read_back_exactly(value: float) -> None:
    x = Input("x", TensorType(DType.F32, (symbol("B"), 4)))
    graph = graph_of("g", {"y": scalar(value), "q": Quantize(x, AbsMax(eps=value)).results[0]})
    assert parse(render(graph)) is graph


@given(st.text())
def test_any_text_is_read_back_exactly(name: str) -> None:
    graph = graph_of("g", {"y": Neg(Input(name, float_of()))})
    assert parse(render(graph)) is graph


def test_an_empty_graph() -> None:
    assert render(Graph("empty", (), ())) == "graph @empty {\n  return\n}\n"
    assert parse("graph @empty { return }") is Graph("empty", (), ())


HEAD = 'graph @g {\n  %x = input() name="x" : f32[B, 8]\n'

ERRORS: dict[str, tuple[str, int, int, str]] = {
    "unknown_op": ("  %y = nag(%x) : f32[B, 8]", 3, 8, "unknown operation 'nag'"),
    "undefined": ("  %y = neg(%z) : f32[B, 8]", 3, 12, "%z is used before it is defined"),
    "itself": ("  %y = neg(%y) : f32[B, 8]", 3, 12, "%y is used before it is defined"),
    "wrong_type": ("  %y = neg(%x) : f32[B, 9]", 3, 16, "declared f32[B, 9], inferred f32[B, 8]"),
    "wrong_dtype": ("  %y = neg(%x) : i32[B, 8]", 3, 16, "declared i32[B, 8], inferred f32[B, 8]"),
    "unknown_dtype": ("  %y = neg(%x) : f33[B, 8]", 3, 18, "unknown element type 'f33'"),
    "twice": ("  %x = neg(%x) : f32[B, 8]", 3, 3, "%x is defined twice"),
    "too_few_results": (
        "  %q = quantize(%x) by=absmax() : i8[B, 8], f32[B, 1]",
        3,
        3,
        "quantize has 2 results, 1 are named",
    ),
    "too_many_results": ("  %y, %z = neg(%x) : f32[B, 8]", 3, 3, "neg has 1 results, 2 are named"),
    "too_many_operands": ("  %y = neg(%x, %x) : f32[B, 8]", 3, 8, "neg has 1 operands, given 2"),
    "too_few_operands": ("  %y = add(%x) : f32[B, 8]", 3, 8, "missing 1 required"),
    "no_operand": ("  %y = neg(none) : f32[B, 8]", 3, 8, "x is None, not Value"),
    "list_for_value": ("  %y = neg([%x]) : f32[B, 8]", 3, 8, "not Value"),
    "value_for_list": ("  %y = concat(%x) axis=0 : f32[B, 8]", 3, 8, "not tuple[Value, ...]"),
    "unknown_attribute": (
        "  %y = neg(%x) axis=1 : f32[B, 8]",
        3,
        16,
        "neg has no attribute 'axis'",
    ),
    "attribute_twice": (
        "  %y = softmax(%x) axis=1 axis=1 : f32[B, 8]",
        3,
        27,
        "'axis', or it is given twice",
    ),
    "declared": (
        '  %y = input() name="y" declared=f32[2] : f32[2]',
        3,
        25,
        "no attribute 'declared'",
    ),
    "wrong_attribute": ('  %y = softmax(%x) axis="1" : f32[B, 8]', 3, 8, "axis is '1', not int"),
    "missing_attribute": ("  %y = rms_norm(%x, none) : f32[B, 8]", 3, 8, "missing 1 required"),
    "refused": ("  %y = softmax(%x) axis=2 : f32[B, 8]", 3, 8, "softmax: no axis 2 in f32[B, 8]"),
    "unknown_record": ("  %y = neg(%x) x=absmin() : f32[B, 8]", 3, 16, "neg has no attribute 'x'"),
    "unknown_record_name": (
        "  %q, %s = quantize(%x) by=absmin() : i8[B, 8], f32[B, 1]",
        3,
        28,
        "unknown record 'absmin'",
    ),
    "record_field": (
        "  %q, %s = quantize(%x) by=absmax(width=1) : i8[B, 8], f32[B, 1]",
        3,
        28,
        "unexpected keyword",
    ),
    "bad_dimension": (
        "  %y = neg(%x) : f32[B, 1.5]",
        3,
        25,
        "'1.5' is not the name of a dimension",
    ),
    "no_dimension": ("  %y = neg(%x) : f32[B, @]", 3, 25, "expected a dimension, found '@'"),
    "escape": (r'  %y = input() name="\q" : f32[2]', 3, 21, "escape"),
    "bad_float": ('  %y = constant() value=float("x") : f32[]', 3, 31, "could not convert"),
    "character": ("  %y = neg(%x) : f32[B, 8] ;", 3, 28, "unexpected character ';'"),
    "unterminated": ('  %y = input() name="y : f32[B, 8]', 3, 21, "unexpected character '\"'"),
    "no_type": ("  %y = neg(%x)\n  %z = neg(%x) : f32[B, 8]", 4, 3, "expected ':', found '%z'"),
    "no_equals": ("  %y neg(%x) : f32[B, 8]", 3, 6, "expected '=', found 'neg'"),
    "no_comma": ("  %y = add(%x %x) : f32[B, 8]", 3, 15, "expected ',', found '%x'"),
    "no_name": ("  %y = add(%x, 3) : f32[B, 8]", 3, 16, "expected a value such as %x, found '3'"),
    "body": (
        '  %y = kernel([%x]) body=graph @b {\n  %x0 = input() name="x0" : f32[2]\n  return y=%x\n}',
        5,
        12,
        "%x is used before it is defined",
    ),
}


@pytest.mark.parametrize(("line", "row", "column", "message"), ERRORS.values(), ids=ERRORS)
def test_an_error_points_at_its_place(line: str, row: int, column: int, message: str) -> None:
    text = f"{HEAD}{line}\n  return y=%y\n}}\n"
    with pytest.raises(ParseError) as caught:
        parse(text, "bad.mmc")
    error = str(caught.value)
    assert message in error
    assert (caught.value.line, caught.value.column) == (row, column), error
    assert error.startswith(f"bad.mmc:{row}:{column}: ")
    shown, caret = error.splitlines()[-2:]
    assert shown == f"  {text.splitlines()[row - 1]}"
    assert caret == " " * (column + 1) + "^"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "1:1", "expected graph, found the end of the text"),
        ("grape @g { return }", "1:1", "expected graph, found 'grape'"),
        ("graph g { return }", "1:7", "expected '@', found 'g'"),
        ("graph @g { return", "1:18", "expected '}', found the end of the text"),
        ("graph @g {\n  return\n}\nrest", "4:1", "expected the end of the text, found 'rest'"),
        ("graph @g {\n  return y=\n}", "3:1", "expected a value such as %x, found '}'"),
        (f"{HEAD}  return y=%x, y=%x\n}}", "3:3", "two outputs of one name"),
        (
            f'{HEAD}  %y = input() name="x" : f32[]\n  return y=%x\n}}',
            "4:3",
            "two inputs of one name",
        ),
        ("graph @g {\n  %x = permute(" + "[" * 100_000, "2:", "nested too deeply"),
    ],
)
def test_an_error_of_the_whole(text: str, place: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text)
    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"<text>:{place}")
    assert message in first


BASES = [SOURCE, *(render(random_graph(seed, 12)) for seed in range(12))]
SCRAPS = st.sampled_from(
    [
        "%x",
        "none",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "=",
        ",",
        ":",
        "-",
        "*",
        "+",
        "T",
        "0",
        "1e999",
        '"',
        "float(",
        "true",
        "graph @g {",
        "absmax(",
        "f32[",
        "i8",
        "\n",
        "#",
        ".",
        "9" * 5000,
        "\\",
        "-1",
        "2.5",
    ]
)


@settings(max_examples=400)
@given(st.data())
def test_a_mutated_text_raises_nothing_but_a_parse_error(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(BASES))
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(text)))
        end = min(len(text), begin + data.draw(st.integers(0, 12)))
        text = text[:begin] + data.draw(SCRAPS | st.text(max_size=3)) + text[end:]
    try:
        graph = parse(text)
    except ParseError:
        return
    assert parse(render(graph)) is graph


def test_every_word_of_a_text_may_be_lost() -> None:
    """Also each operand, attribute, type and bracket, one at a time."""
    words = SOURCE.split(" ")
    for n in range(len(words)):
        with pytest.raises(ParseError):
            parse(" ".join([*words[:n], "", *words[n + 1 :]]).replace("\n ", "\n").rstrip("}\n"))


def test_a_text_of_20000_operations() -> None:
    lines = [f"  %v{n + 1} = neg(%v{n}) : f32[4]" for n in range(20_000)]
    first = '  %v0 = input() name="v0" : f32[4]'
    graph = parse("\n".join(["graph @g {", first, *lines, "  return y=%v20000", "}"]))
    assert len(graph) == 20_001
    assert all(isinstance(op, Op) for op in graph)
