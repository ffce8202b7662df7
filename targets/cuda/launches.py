"""What is launched for the kernels of a graph: data that lies beside the compiled code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmc.ir.types import Dim, bind_dim, parse_dim

Argument = str | Dim
"""A pointer "3.in_0" or "3.out_1" (of kernel 3 of the graph), "blocks", or a size."""


@dataclass(frozen=True)
class Launch:
    """A block of `threads` for each `per` items of `work`, times `times`.

    shared: bytes of shared memory of a block, besides what its kernel declares.
    """

    kernel: str
    threads: int
    work: Dim
    per: int
    times: int
    arguments: tuple[Argument, ...]
    shared: int = 0

    def blocks(self, symbols: Mapping[str, int]) -> int:
        """How many blocks the sizes ask for."""
        return -(-number(self.work, symbols) // self.per) * self.times


@dataclass(frozen=True)
class Choice:
    """Launches, one after the other, for at most `most_rows` rows, or for any number."""

    most_rows: int | None
    rows: Dim
    launches: tuple[Launch, ...]


Group = Sequence[Choice]
"""Choices of which the first that is for as many rows runs."""


def choose(group: Group, symbols: Mapping[str, int]) -> tuple[Launch, ...]:
    """The launches for these sizes."""
    for choice in group:
        if choice.most_rows is None or number(choice.rows, symbols) <= choice.most_rows:
            return choice.launches
    raise ValueError(f"no choice is for {symbols}")


def number(dim: Dim, symbols: Mapping[str, int]) -> int:
    """A dimension of known sizes."""
    bound = bind_dim(dim, symbols)
    assert isinstance(bound, int)
    return bound


def to_json(entries: Mapping[str, Sequence[Group]]) -> str:
    """The groups of each entry."""
    record = {
        name: [[_choice_record(choice) for choice in group] for group in groups]
        for name, groups in entries.items()
    }
    return json.dumps(record)


def from_json(text: str) -> dict[str, list[list[Choice]]]:
    """What `to_json` wrote."""
    return {
        name: [[_choice(record) for record in group] for group in groups]
        for name, groups in json.loads(text).items()
    }


def _choice_record(choice: Choice) -> dict[str, Any]:
    launches = [
        [x.kernel, x.threads, str(x.work), x.per, x.times,
         [a if isinstance(a, str) else {"size": str(a)} for a in x.arguments], x.shared]
        for x in choice.launches
    ]  # fmt: skip
    return {"most_rows": choice.most_rows, "rows": str(choice.rows), "launches": launches}


def _choice(record: Mapping[str, Any]) -> Choice:
    launches = tuple(
        Launch(kernel, threads, parse_dim(work), per, times,
               tuple(a if isinstance(a, str) else parse_dim(a["size"]) for a in arguments),
               shared)
        for kernel, threads, work, per, times, arguments, shared in record["launches"]
    )  # fmt: skip
    return Choice(record["most_rows"], parse_dim(record["rows"]), launches)
