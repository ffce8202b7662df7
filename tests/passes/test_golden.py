"""The golden files beside this one: what each pass does to a small graph, and that it may.

    # passes: strip-ste, canonicalize
    # A sentence about the case.
    graph @before { ... }
    // -----
    # rule straight_through x1
    # kept mul: why the pass left it alone
    graph @after { ... }

`pytest tests/passes --update-golden` writes the second half anew.  The interpreter also runs each
case before and after, on random numbers, and once more through the passes, which change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmc.ir.graph import Graph
from mmc.ir.intern import own_world
from mmc.ir.tensors import Tensors
from mmc.ir.text import parse, render
from mmc.passes.check import check_pass
from mmc.passes.manager import PassManager
from mmc.passes.registry import PASSES, parse_pipeline
from tests.random_graphs import random_inputs, random_tensors

FILES = sorted(Path(__file__).parent.glob("*.mmc"))
MARK = "// -----\n"
BY_VALUE = {"fold-constants", "find-ternary-linear", "to-fixed-point", "convert-layers"}
"""Passes that look at numbers, or change them, have tests of their own."""


@dataclass(frozen=True)
class Golden:
    """A golden file, taken apart."""

    pipeline: str
    comment: str
    before: Graph
    after: str

    @property
    def changes(self) -> bool:
        return "# rule " in self.after


def read(path: Path) -> Golden:
    before, _, after = path.read_text().partition(MARK)
    first, *rest = before.splitlines(keepends=True)
    assert first.startswith("# passes: "), f"{path.name} begins with `# passes: NAME, ...`"
    comment = "".join(line for line in rest if line.startswith("#"))
    assert comment, f"{path.name} does not say what it shows"
    return Golden(
        first.removeprefix("# passes: ").strip(), comment, parse(before, path.name), after
    )


def run(golden: Golden, tensors: Tensors) -> tuple[Graph, PassManager]:
    manager = PassManager(tensors)
    return manager.run(golden.before, parse_pipeline(golden.pipeline)), manager


def told(manager: PassManager) -> str:
    """What the passes say: the rules that fired, and why they left a candidate alone."""
    lines: list[str] = []
    for step in manager.steps:
        lines += [f"# rule {name} x{count}" for name, count in step.log.fired.items()]
        lines += [f"# kept {v.where}: {v.why}" for v in step.log.verdicts if not v.fired]
    return "".join(f"{line}\n" for line in lines)


@pytest.fixture
def own_names() -> Iterator[None]:
    """No origin of another test's operation gets into the text."""
    with own_world():
        yield


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path: Path, update_golden: bool, own_names: None) -> None:
    golden = read(path)
    head = f"# passes: {golden.pipeline}\n{golden.comment}{render(golden.before)}"
    after, manager = run(golden, random_tensors(golden.before))
    text = f"{head}{MARK}{told(manager)}{render(after)}"
    if update_golden:
        path.write_text(text)
    assert text == path.read_text()
    assert parse(golden.after if not update_golden else render(after), path.name) is after


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_meaning_stays(path: Path) -> None:
    golden = read(path)
    for seed in range(3):
        tensors = random_tensors(golden.before, seed)
        _, manager = run(golden, tensors)
        for step in manager.steps:
            probes = [random_inputs(golden.before, seed)]
            check = check_pass(step.name, step.before, step.after, step.mapped, tensors, probes)
            assert check.holds, check.failures
            assert check.values > 0 or step.before is step.after


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_once_is_enough(path: Path) -> None:
    golden = read(path)
    tensors = random_tensors(golden.before)
    after, _ = run(golden, tensors)
    if golden.pipeline.startswith(("last-position", "fuse-kernels")):
        return  # these two are run once, on a graph that they have not seen
    again = PassManager(tensors).run(after, parse_pipeline(golden.pipeline))
    assert again is after, render(again)


def test_every_pass_has_a_case_that_fires_and_one_that_does_not() -> None:
    fires = {p.name for g in map(read, FILES) if g.changes for p in parse_pipeline(g.pipeline)}
    rests = {p.name for g in map(read, FILES) if not g.changes for p in parse_pipeline(g.pipeline)}
    assert fires | BY_VALUE == set(PASSES)
    assert rests | BY_VALUE >= set(PASSES) - {"fuse-kernels"}


def test_every_rule_has_a_case() -> None:
    import importlib

    told = "".join(golden.after for golden in map(read, FILES))
    for name in PASSES:
        module = importlib.import_module(f"mmc.passes.{name.replace('-', '_')}")
        for rule in getattr(module, "RULES", ()):
            assert f"# rule {rule.name} x" in told, f"{name}: no case for {rule.name}"
