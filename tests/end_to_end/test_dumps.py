"""Every graph that is written while the example compiles reads back as itself."""

from __future__ import annotations

from mmc.ir.text import parse, render
from tests.end_to_end.compiled import artifact


def test_every_dump_reads_back() -> None:
    files = sorted(artifact("example").rglob("*.mmc"))
    assert {file.name for file in files} >= {"graph.mmc", "graph-step.mmc", "00-input.mmc"}
    for file in files:
        graph = parse(file.read_text(), file.name)
        assert parse(render(graph), file.name) is graph
