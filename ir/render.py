"""Graphs as text; `mmc.ir.text` has the grammar, and the way back."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, cast

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value
from mmc.ir.ops.catalog import RECORDS
from mmc.ir.types import SymbolicDim, TensorType

_RECORD_NAMES = {cls: name for name, cls in RECORDS.items()}


def render(graph: Graph) -> str:
    """The text of a graph; `parse` gives the same graph back."""
    return "\n".join(_graph_lines(graph)) + "\n"


def _graph_lines(graph: Graph) -> list[str]:
    names = _value_names(graph)
    lines = [f"graph @{_label(graph.name)} {{"]
    for op in graph:
        left = ", ".join(names[v] for v in op.results)
        operands = ", ".join(_operand(getattr(op, n), names) for n in op.operand_names)
        attributes = "".join(
            f" {k}={_attribute(a)}" for k, a in op.attributes.items() if k != "declared"
        )
        types = ", ".join(map(str, op.types))
        note = f"  # {op.origin}".replace("\n", " ") if op.origin else ""
        text = f"{left} = {op.mnemonic}({operands}){attributes} : {types}{note}"
        lines += [f"  {line}" for line in text.split("\n")]
    result = ", ".join(f"{_label(name)}={names[value]}" for name, value in graph.outputs)
    return [*lines, f"  return {result}".rstrip(), "}"]


def _label(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][\w.]*", name) else json.dumps(name)


def _operand(operand: Any, names: dict[Value, str]) -> str:
    if operand is None:
        return "none"
    if isinstance(operand, tuple):
        return f"[{', '.join(names[v] for v in cast(tuple[Value, ...], operand))}]"
    return names[operand]


def _attribute(value: Any) -> str:
    match value:
        case None | bool():
            return str(value).lower()
        case str():
            return json.dumps(value)
        case float() if not math.isfinite(value):
            return f"float({json.dumps(str(value))})"
        case int():
            return int.__repr__(value)
        case float():
            return float.__repr__(value)
        case Enum() | SymbolicDim() | TensorType():
            return str(value)
        case Graph():
            return "\n".join(_graph_lines(value))
        case tuple():
            return f"[{', '.join(map(_attribute, cast(tuple[Any, ...], value)))}]"
        case _ if is_dataclass(value):
            inner = (f"{f.name}={_attribute(getattr(value, f.name))}" for f in fields(value))
            return f"{_RECORD_NAMES[type(value)]}({', '.join(inner)})"
        case _:
            raise TypeError(f"{type(value).__name__} has no text form")


def _value_names(graph: Graph) -> dict[Value, str]:
    """A name for each value: inputs and weights keep theirs, others say where they come from.

    Names build on the origin, so that a change in one layer renames nothing in another.
    """
    names: dict[Value, str] = {}
    taken: set[str] = set()
    count: Counter[str] = Counter()
    for op in graph:
        stem = re.sub(r"[^\w.]|\.$", "_", op.attributes.get("name") or _stem(op))
        count[stem] += 1
        while not taken.isdisjoint(spelt := _spelt(op, stem, count[stem])):
            count[stem] += 1
        taken.update(spelt)
        names |= zip(op.results, spelt, strict=True)
    return names


def _spelt(op: Op, stem: str, n: int) -> list[str]:
    """The names of the results of the n-th operation with that stem."""
    stem = f"{stem}.{n}" if n > 1 else stem
    suffixes = [re.sub(r"[^\w.]|\.$", "_", name) for name in op.result_names]
    if len(set(suffixes)) < len(suffixes):  # names of a kernel's outputs may be any text
        suffixes = [f"{suffix}.{i}" for i, suffix in enumerate(suffixes)]
    return [f"%{stem}.{suffix}" if suffix else f"%{stem}" for suffix in suffixes]


def _stem(op: Op) -> str:
    return f"{op.origin.path}.{op.mnemonic}" if op.origin and op.origin.path else op.mnemonic
