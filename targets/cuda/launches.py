"""What is launched for each kernel of a graph: data that lies beside the compiled code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmc.ir.types import Dim, SymbolicDim, bind_dim


@dataclass(frozen=True)
class Size:
    """A number that sizes give: coefficient times a product of symbols, summed."""

    terms: tuple[tuple[int, tuple[str, ...]], ...]

    @staticmethod
    def of(dim: Dim) -> Size:
        if not isinstance(dim, SymbolicDim):
            return Size(((dim, ()),))
        return Size(tuple((coefficient, monomial) for monomial, coefficient in dim.terms))

    def bind(self, symbols: Mapping[str, int]) -> int:
        """The number."""
        dim: Dim = 0
        for coefficient, monomial in self.terms:
            product: Dim = coefficient
            for name in monomial:
                product = product * symbols[name]
            dim = dim + product
        bound = bind_dim(dim, symbols)
        assert isinstance(bound, int)
        return bound


@dataclass(frozen=True)
class Launch:
    """One launch: a block of `threads` for each `per` items of `work`, times `times`.

    arguments: in the kernel's order "in_0", "out_1" for a pointer, a size, or "blocks".
    It is for at most `most_rows` items of work, where that is given.
    """

    kernel: str
    threads: int
    work: Size
    per: int
    times: int
    most_rows: int | None
    arguments: tuple[str | Size, ...]

    def blocks(self, symbols: Mapping[str, int]) -> int:
        """How many blocks the sizes ask for."""
        return -(-self.work.bind(symbols) // self.per) * self.times


Choices = Sequence[Launch]
"""Launches of which the first that is for as many rows runs."""


def choose(choices: Choices, symbols: Mapping[str, int]) -> Launch:
    """The launch for these sizes."""
    for launch in choices:
        if launch.most_rows is None or launch.work.bind(symbols) <= launch.most_rows:
            return launch
    raise ValueError(f"no launch of {choices[0].kernel} is for {symbols}")


def to_json(entries: Mapping[str, Sequence[Sequence[Choices]]]) -> str:
    """The launches of each entry: for each kernel of its graph, one after the other."""
    return json.dumps({name: [[[asdict(x) for x in step] for step in kernel] for kernel in kernels]
                       for name, kernels in entries.items()})  # fmt: skip


def from_json(text: str) -> dict[str, list[list[list[Launch]]]]:
    """What `to_json` wrote."""
    return {
        name: [[[_launch(x) for x in step] for step in kernel] for kernel in kernels]
        for name, kernels in json.loads(text).items()
    }


def _launch(fields: Mapping[str, Any]) -> Launch:
    arguments = (a if isinstance(a, str) else _size(a) for a in fields["arguments"])
    return Launch(**{**fields, "work": _size(fields["work"]), "arguments": tuple(arguments)})


def _size(fields: Mapping[str, Any]) -> Size:
    return Size(tuple((coefficient, tuple(names)) for coefficient, names in fields["terms"]))
