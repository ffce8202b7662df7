"""The textual form: `render` and `parse` are inverses.

    graph    = "graph" "@"label "{" operation* return "}"             label = name | "text"
    operation = results "=" mnemonic "(" operands ")" (name "=" attribute)* ":" types
    results  = "%"name ("," "%"name)*           operands = (operand ("," operand)*)?
    operand  = "%"name | "none" | "[" operands "]"
    attribute = number | "text" | true | false | none | dtype | dimension | "[" attribute,* "]"
              | record "(" (name "=" attribute),* ")" | graph
    return   = "return" (label "=" operand ("," label "=" operand)*)?
    types    = dtype "[" dimension,* "]" ("," ...)*

A comment runs from "#" to the end of its line; the one behind an operation is its origin.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Origin, Result, Value, VerifyError, origin
from mmc.ir.ops.catalog import OPERATIONS, RECORDS
from mmc.ir.ops.source import Input
from mmc.ir.render import render
from mmc.ir.tokens import ParseError, Tokens
from mmc.ir.types import Dim, DType, TensorType, parse_dim

__all__ = ["ParseError", "parse", "render"]

_DTYPES = {dtype.value for dtype in DType}


def parse(text: str, source: str = "<text>") -> Graph:
    """The graph that the text describes; raise ParseError with line, column and caret.

    source: the file's name, for the message.
    """
    tokens = Tokens(text, source)
    try:
        graph = _parse_graph(tokens)
    except RecursionError:
        raise tokens.error(tokens.peek(), "nested too deeply") from None
    tokens.expect("end")
    return graph


def _parse_graph(tokens: Tokens) -> Graph:
    tokens.expect("word", "graph")
    tokens.expect("@")
    name = _parse_label(tokens)
    tokens.expect("{")
    values: dict[str, Value] = {}
    inputs: list[Input] = []
    while tokens.peek().kind == "%":
        op = _parse_operation(tokens, values)
        if isinstance(op, Input):
            inputs.append(op)
    start = tokens.expect("word", "return")
    outputs: list[tuple[str, Value]] = []
    while tokens.peek().kind in ("word", "string"):
        label = _parse_label(tokens)
        tokens.expect("=")
        outputs.append((label, _reference(tokens, values)))
        if not tokens.accept(","):
            break
    tokens.expect("}")
    try:
        return Graph(name, tuple(inputs), tuple(outputs)).verify()
    except VerifyError as error:
        raise tokens.error(start, str(error)) from None


def _parse_label(tokens: Tokens) -> str:
    return (
        _read(tokens, json.loads) if tokens.peek().kind == "string" else tokens.expect("word").text
    )


def _read(tokens: Tokens, reader: Callable[[str], Any]) -> Any:
    """What the reader makes of the next token."""
    token = tokens.next()
    try:
        return reader(token.text)
    except ValueError as error:
        raise tokens.error(token, str(error)) from None


def _parse_operation(tokens: Tokens, values: dict[str, Value]) -> Op:
    names = [tokens.expect("%")]
    while tokens.accept(","):
        names.append(tokens.expect("%"))
    tokens.expect("=")
    mnemonic = tokens.expect("word")
    cls = OPERATIONS.get(mnemonic.text)
    if cls is None:
        raise tokens.error(mnemonic, f"unknown operation {mnemonic.text!r}")
    tokens.expect("(")
    operands = _operand_list(tokens, values, ")")
    if len(operands) > len(cls.operand_names):
        wanted = len(cls.operand_names)
        raise tokens.error(mnemonic, f"{cls.mnemonic} has {wanted} operands, given {len(operands)}")
    fields = dict(zip(cls.operand_names, operands, strict=False))
    known = set(cls.field_names) - set(cls.operand_names) - {"declared"}
    while tokens.peek().kind == "word":
        key = tokens.next()
        if key.text not in known or key.text in fields:
            raise tokens.error(
                key, f"{cls.mnemonic} has no attribute {key.text!r}, or it is given twice"
            )
        tokens.expect("=")
        fields[key.text] = _parse_attribute(tokens)
    colon = tokens.expect(":")
    types = [_parse_type(tokens)]
    while tokens.accept(","):
        types.append(_parse_type(tokens))
    if "declared" in cls.field_names:
        fields["declared"] = types[0]
    with origin(_parse_origin(tokens.comment())):
        try:
            op = cls(**fields)
            found = op.types
        except (VerifyError, TypeError) as error:
            raise tokens.error(mnemonic, str(error)) from None
    if found != tuple(types):
        declared = ", ".join(map(str, types))
        raise tokens.error(colon, f"declared {declared}, inferred {', '.join(map(str, found))}")
    if len(names) != len(op.results):
        raise tokens.error(
            names[0], f"{cls.mnemonic} has {len(op.results)} results, {len(names)} are named"
        )
    for token, result in zip(names, op.results, strict=True):
        if token.text in values:
            raise tokens.error(token, f"{token.text} is defined twice")
        values[token.text] = result
    return op


def _parse_origin(comment: str) -> Origin | None:
    path, _, line = comment.partition(", ")
    return Origin(path, line) if path else None


def _operand_list(tokens: Tokens, values: dict[str, Value], end: str) -> list[Any]:
    operands: list[Any] = []
    while not tokens.accept(end):
        if operands:
            tokens.expect(",")
        if tokens.accept("["):
            operands.append(tuple(_operand_list(tokens, values, "]")))
        elif tokens.peek().text == "none":
            tokens.next()
            operands.append(None)
        else:
            operands.append(_reference(tokens, values))
    return operands


def _reference(tokens: Tokens, values: dict[str, Value]) -> Value:
    token = tokens.expect("%")
    if token.text not in values:
        raise tokens.error(token, f"{token.text} is used before it is defined")
    value = values[token.text]
    if isinstance(value, Op | Result):
        return value
    raise tokens.error(token, f"{token.text} is not a value")


def _parse_type(tokens: Tokens) -> TensorType:
    token = tokens.expect("word")
    if token.text not in _DTYPES:
        raise tokens.error(token, f"unknown element type {token.text!r}")
    tokens.expect("[")
    shape: list[Dim] = []
    while not tokens.accept("]"):
        if shape:
            tokens.expect(",")
        shape.append(_parse_dim(tokens))
    return TensorType(DType(token.text), tuple(shape))


def _parse_dim(tokens: Tokens) -> Dim:
    token = tokens.dimension()
    try:
        return parse_dim(token.text)
    except ValueError as error:
        raise tokens.error(token, str(error)) from None


def _parse_attribute(tokens: Tokens) -> Any:
    token = tokens.peek()
    if token.kind == "string":
        return _read(tokens, json.loads)
    if token.kind == "number" and not tokens.is_dimension():
        return _read(tokens, float if any(c in token.text for c in ".e") else int)
    if tokens.accept("["):
        items: list[Any] = []
        while not tokens.accept("]"):
            if items:
                tokens.expect(",")
            items.append(_parse_attribute(tokens))
        return tuple(items)
    if token.text == "graph" and tokens.peek(1).kind == "@":
        return _parse_graph(tokens)
    return _parse_word(tokens)


def _parse_word(tokens: Tokens) -> Any:
    token = tokens.peek()
    if token.text in _DTYPES:
        if tokens.peek(1).kind == "[":
            return _parse_type(tokens)
        return DType(tokens.next().text)
    if token.text in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[tokens.next().text]
    if tokens.peek(1).kind == "(":
        return _parse_record(tokens)
    return _parse_dim(tokens)


def _parse_record(tokens: Tokens) -> Any:
    name = tokens.next()
    tokens.expect("(")
    if name.text == "float":
        value = _read(tokens, lambda text: float(text.strip('"')))
        tokens.expect(")")
        return value
    if name.text not in RECORDS:
        raise tokens.error(name, f"unknown record {name.text!r}")
    given: dict[str, Any] = {}
    while not tokens.accept(")"):
        if given:
            tokens.expect(",")
        key = tokens.expect("word").text
        tokens.expect("=")
        given[key] = _parse_attribute(tokens)
    try:
        return RECORDS[name.text](**given)
    except TypeError as error:
        raise tokens.error(name, str(error)) from None
