"""What is launched for the kernels of a graph: data that lies beside the compiled code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmc.ir.types import Dim, bind_dim, parse_dim

Argument = str | Dim
"""A pointer "3.in_0" or "3.out_1" (of kernel 3 of the graph), "3.moves", "blocks", or a size.

moves: whether the new value of a cache lies elsewhere than the old one.
"""


@dataclass(frozen=True)
class Launch:
    """A block of `threads` for each `per` items of `work`, times `times`.

    shared: bytes of shared memory of a block, besides what its kernel declares.  waits: the kernel
    waits itself for the launches before it.
    """

    kernel: str
    threads: int
    work: Dim
    per: int
    times: Dim
    arguments: tuple[Argument, ...]
    shared: int = 0
    waits: bool = False

    def blocks(self, symbols: Mapping[str, int]) -> int:
        """How many blocks the sizes ask for."""
        return -(-number(self.work, symbols) // self.per) * number(self.times, symbols)


@dataclass(frozen=True)
class Choice:
    """Launches, one after the other, for at most `most_rows` rows, or for any number."""

    most_rows: int | None
    rows: Dim
    launches: tuple[Launch, ...]


Word = int | tuple[str, int]
"""A number, or the pointer that an `Argument` names and bytes to add to it."""


@dataclass(frozen=True)
class Persistent:
    """One launch for a whole graph on one row, phase after phase (`mmc.targets.cuda.phases`).

    rows: the number of rows, to be 1.  shared_bytes: dynamic shared memory.  floats: the length of
    the exchange.  under_way: chunks of weights that a block asks for at a time.  phases: the words
    of each.
    """

    kernel: str
    parameters: tuple[str, ...]
    blocks: int
    threads: int
    shared_bytes: int
    floats: int
    under_way: int
    rows: Dim
    phases: tuple[tuple[Word, ...], ...]


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


@dataclass(frozen=True)
class Entry:
    """The groups of an entry, and the one launch in their place, where there is one."""

    groups: Sequence[Group]
    persistent: Persistent | None = None


def to_json(entries: Mapping[str, Entry]) -> str:
    """What is launched for each entry."""
    record = {
        name: {
            "groups": [[_choice_record(choice) for choice in group] for group in entry.groups],
            "persistent": _persistent_record(entry.persistent),
        }
        for name, entry in entries.items()
    }
    return json.dumps(record)


def from_json(text: str) -> dict[str, Entry]:
    """What `to_json` wrote."""
    return {
        name: Entry(
            [[_choice(choice) for choice in group] for group in record["groups"]],
            _persistent(record["persistent"]),
        )
        for name, record in json.loads(text).items()
    }


def _persistent_record(one: Persistent | None) -> dict[str, Any] | None:
    return None if one is None else {**asdict(one), "rows": str(one.rows)}


def _persistent(record: Mapping[str, Any] | None) -> Persistent | None:
    if record is None:
        return None
    phases = tuple(
        tuple(word if isinstance(word, int) else (word[0], word[1]) for word in words)
        for words in record["phases"]
    )
    numbers: dict[str, int] = {
        name: record[name] for name in ("blocks", "threads", "shared_bytes", "floats", "under_way")
    }
    return Persistent(
        kernel=record["kernel"], parameters=tuple(record["parameters"]),
        rows=parse_dim(record["rows"]), phases=phases, **numbers,
    )  # fmt: skip


def _choice_record(choice: Choice) -> dict[str, Any]:
    launches = [
        [x.kernel, x.threads, str(x.work), x.per, str(x.times),
         [a if isinstance(a, str) else {"size": str(a)} for a in x.arguments], x.shared, x.waits]
        for x in choice.launches
    ]  # fmt: skip
    return {"most_rows": choice.most_rows, "rows": str(choice.rows), "launches": launches}


def _choice(record: Mapping[str, Any]) -> Choice:
    launches = tuple(
        Launch(kernel, threads, parse_dim(work), per, parse_dim(str(times)),
               tuple(a if isinstance(a, str) else parse_dim(a["size"]) for a in arguments),
               shared, waits)
        for kernel, threads, work, per, times, arguments, shared, waits in record["launches"]
    )  # fmt: skip
    return Choice(record["most_rows"], parse_dim(record["rows"]), launches)
