"""Put measured blocks into docs/benchmarks-cpu.md; what is written by hand around them stays.

A block lies between `<!-- NAME -->` and `<!-- end NAME -->`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks-cpu.md"


def missing(text: str, names: Sequence[str]) -> list[str]:
    """The blocks that the document has no place for."""
    return [name for name in names if not place(name).search(text)]


def put(text: str, name: str, lines: Sequence[str]) -> str:
    """The document with one block replaced."""
    block = "\n".join([f"<!-- {name} -->", *lines, f"<!-- end {name} -->"])
    return place(name).sub(lambda _: block, text)


def place(name: str) -> re.Pattern[str]:
    """Where a block lies."""
    word = re.escape(name)
    return re.compile(rf"<!-- {word} -->\n.*?<!-- end {word} -->", re.DOTALL)


def shown_command(
    arguments: Sequence[str], paths: Sequence[str], program: str = "benchmarks.cpu"
) -> str:
    """The command line as others can type it: the values of the options `paths` by their names."""
    words: list[str] = []
    hidden = False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        name = option.lstrip("-").replace("-", "_").upper()
        if hidden:
            words.append(words[-1].lstrip("-").replace("-", "_").upper())
        elif option in paths and equals:
            words.append(f"{option}={name}")
        else:
            words.append(argument)
        hidden = not hidden and option in paths and not equals
    return " ".join([f"python -m {program}", *words])
