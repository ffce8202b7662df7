"""Measure MMC's CPU target beside its peers and print, or write, the tables.

    python -m benchmarks.cpu --llama-bench PATH --llama-bench-avx2 PATH --litespark PYTHON --write

Sections: gemv, rows, gemm (the kernels alone), models (all programs at their best), avx2 (both
sides without AVX-512), bandwidth, batch, context, answers (of MMC), peers (what was checked of the
others).  Models are made once, in the folder --build.  A peer that is not given is left out and its
table says so.  --write puts each block into docs/benchmarks-cpu.md as soon as it is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

from benchmarks.cpu import answers, bandwidth, batch, compare, context, document, kernels, machine
from benchmarks.cpu.settings import Settings, add_options, settings

BY_SHAPE: dict[str, Callable[[Settings, str], list[str]]] = {
    "models": compare.native,
    "avx2": compare.without_avx512,
    "bandwidth": bandwidth.fraction,
    "batch": batch.batched,
    "context": context.flat,
    "answers": answers.own,
}
"""Sections that have a block for each shape, named `SECTION SHAPE`."""

ONCE: dict[str, Callable[[Settings], list[str]]] = {
    "gemv": kernels.gemv,
    "rows": kernels.rows,
    "gemm": kernels.gemm,
    "peers": answers.peers,
}
"""Sections of one block, named as the section."""

PATHS = ("--llama-bench", "--llama-bench-avx2", "--llama-python", "--litespark", "--build")


def names(sections: tuple[str, ...], shapes: tuple[str, ...]) -> list[str]:
    """The blocks that a run makes."""
    shaped = [f"{name} {shape}" for name in BY_SHAPE if name in sections for shape in shapes]
    return [*shaped, *(name for name in ONCE if name in sections)]


def blocks(chosen: Settings, sections: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of each block, as they are measured."""
    command = document.shown_command(sys.argv[1:], PATHS)
    foot = ["", machine.described(chosen), "", "```", command, "```"]
    for name in names(sections, chosen.models):
        section, _, shape = name.partition(" ")
        if shape:
            lines = [f"### {shape.upper()}", "", *BY_SHAPE[section](chosen, shape)]
        else:
            lines = ONCE[section](chosen)
        yield name, [*lines, *foot]


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(
        "benchmarks.cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = (*BY_SHAPE, *ONCE)
    parser.add_argument("--only", help=f"some of {','.join(every)}")
    parser.add_argument("--write", action="store_true", help=f"into {document.DOCUMENT.name}")
    add_options(parser)
    given = parser.parse_args()
    sections = tuple(given.only.split(",")) if given.only else every
    if unknown := [name for name in sections if name not in every]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(every)}")
    chosen = settings(given)
    text = document.DOCUMENT.read_text()
    if given.write and (lost := document.missing(text, names(sections, chosen.models))):
        parser.error(f"{document.DOCUMENT.name} has no place for {', '.join(lost)}")
    for name, lines in blocks(chosen, sections):
        print("\n".join([f"## {name}", "", *lines, ""]), flush=True)
        if given.write:
            text = document.put(document.DOCUMENT.read_text(), name, lines)
            document.DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
