"""Print the lines of Python code per layer; `make size` runs this.

A line counts when it holds a token of code: blank lines, comments and docstrings do not.
"""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("ir", "passes", "frontends", "targets", "mmc", "tests")
SKIPPED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """Return how many lines of `source` hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def main() -> None:
    """Print files and code lines of every layer, and their sum without the tests."""
    total = 0
    for layer in LAYERS:
        # mmc/ir is a link to ir, which is counted under its own name.
        files = [path for path in (ROOT / layer).rglob("*.py") if path.resolve() == path]
        lines = sum(code_lines(path.read_text("utf-8")) for path in files)
        total += 0 if layer == "tests" else lines
        print(f"{layer:10} {len(files):4} files {lines:6} lines")
    print(f"{'sum':10} {'':10} {total:6} lines without tests")


if __name__ == "__main__":
    main()
