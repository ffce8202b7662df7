"""What a pass is: a function from graph to graph, with typed options and a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import Op
from mmc.ir.tensors import Tensors
from mmc.passes.rewrite import AnyRule, rewrite


@dataclass(frozen=True)
class Verdict:
    """Why a pass did or did not fire at a place."""

    where: str
    fired: bool
    why: str


@dataclass
class Log:
    """What a pass has to say: which rules fired how often, and a verdict for every candidate."""

    fired: Counter[str] = field(default_factory=Counter[str])
    verdicts: list[Verdict] = field(default_factory=list[Verdict])

    def fire(self, op: Op, rule: str, why: str) -> None:
        self.fired[rule] += 1
        self.verdicts.append(Verdict(place(op), True, why))

    def skip(self, op: Op, why: str) -> None:
        self.verdicts.append(Verdict(place(op), False, why))


def place(op: Op) -> str:
    """The module path of an operation, or its mnemonic where none is known."""
    return op.origin.path if op.origin and op.origin.path else op.mnemonic


class Pass:
    """Base of every pass; the fields of a subclass, a frozen dataclass, are its options."""

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    """False for a pass that changes numbers, on purpose."""

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        """The new graph, and what became of every value of the old one.

        A value that the map gives for an old one must be equal to it: that is what `--check` tests.
        New tensors go into `tensors`.
        """
        raise NotImplementedError


Leftovers = Callable[[Graph], Iterable[tuple[Op, str]]]


@dataclass(frozen=True)
class RulePass(Pass):
    """A pass that is a list of rules; `leftovers` says of each candidate that stayed why it did."""

    name: str  # pyright: ignore[reportIncompatibleVariableOverride]
    rules: Sequence[AnyRule]
    leftovers: Leftovers = lambda _: ()

    def run(self, graph: Graph, tensors: Tensors, log: Log) -> tuple[Graph, Mapped]:
        after, mapped = rewrite(
            graph, self.rules, lambda r, op: log.fire(op, r.name, _first_line(r.why))
        )
        for op, why in self.leftovers(after):
            log.skip(op, why)
        return after, mapped


def _first_line(text: str) -> str:
    return text.split("\n")[0]
