"""Run passes in order: verify after each, time each, and keep what each did."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmc.errors import MmcError
from mmc.ir.diff import diff
from mmc.ir.graph import Graph, Mapped
from mmc.ir.op import VerifyError
from mmc.ir.tensors import Tensors
from mmc.ir.text import render
from mmc.passes.base import Log, Pass


@dataclass(frozen=True)
class Step:
    """What one pass did to one graph."""

    number: int
    name: str
    before: Graph
    after: Graph
    mapped: Mapped
    log: Log
    seconds: float
    exact: bool = True
    """Whether the graph computes what it did before."""

    @property
    def file_name(self) -> str:
        return f"{self.number:02}-{self.name}.mmc"

    def summary(self) -> str:
        rules = ", ".join(f"{name} x{n}" for name, n in self.log.fired.items()) or "nothing fired"
        size = f"{len(self.before):>6} -> {len(self.after):<6}"
        return f"{self.name:<28}{size}{self.seconds:6.2f} s  {rules}"

    def diff(self) -> str:
        return diff(self.before, self.after)

    def record(self) -> str:
        """One line of passes.jsonl; without times, so that a rebuilt artefact is the same."""
        return json.dumps({
            "number": self.number,
            "pass": self.name,
            "graph": self.after.name,
            "operations": [len(self.before), len(self.after)],
            "fired": dict(sorted(self.log.fired.items())),
            "verdicts": [asdict(verdict) for verdict in self.log.verdicts],
        })  # fmt: skip


Progress = Callable[[str], None]


class PassManager:
    """Runs passes one after the other and remembers every step."""

    def __init__(self, tensors: Tensors, progress: Progress = lambda _: None) -> None:
        self.tensors = tensors
        self.steps: list[Step] = []
        self._progress = progress

    def run(self, graph: Graph, passes: Sequence[Pass]) -> Graph:
        """The graph after all the passes; raise MmcError, naming the pass that breaks it."""
        for each in passes:
            graph = self.run_one(graph, each).after
        return graph

    def run_one(self, graph: Graph, each: Pass) -> Step:
        self._progress(each.name)
        log, began = Log(), time.perf_counter()
        try:
            after, mapped = each.run(graph, self.tensors, log)
            after.verify()
        except VerifyError as error:
            ran = ", ".join(step.name for step in self.steps) or "none"
            raise MmcError(
                str(error), f"after pass {each.name}", f"passes before it: {ran}"
            ) from error
        step = Step(
            len(self.steps) + 1, each.name, graph, after, mapped, log,
            time.perf_counter() - began, each.exact,
        )  # fmt: skip
        self.steps.append(step)
        return step


def write_dumps(folder: Path, source: Graph, steps: Sequence[Step]) -> None:
    """00-input.mmc, NN-name.mmc after each pass, and passes.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "00-input.mmc").write_text(render(source))
    for step in steps:
        (folder / step.file_name).write_text(render(step.after))
    (folder / "passes.jsonl").write_text("".join(f"{step.record()}\n" for step in steps))
