"""What changed between two graphs, line by line."""

from __future__ import annotations

import difflib

from mmc.ir.graph import Graph
from mmc.ir.text import render


def diff(before: Graph, after: Graph, context: int = 0) -> str:
    """A unified diff of the two texts; empty where the graphs are one."""
    if before is after:
        return ""
    lines = difflib.unified_diff(
        render(before).splitlines(),
        render(after).splitlines(),
        "before",
        "after",
        n=context,
        lineterm="",
    )
    return "\n".join(lines)
