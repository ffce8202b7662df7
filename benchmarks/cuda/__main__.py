"""Measure MMC's CUDA target beside its peers and print, or write, the tables.

    python -m benchmarks.cuda.prepare FOLDER           where TVM is
    python -m benchmarks.cuda --prepared FOLDER --w2a8 BITNET/gpu/bitnet_kernels --write

Sections: gemv, batch, scan (kernels alone), decode, sequences, energy, prefill, memory (whole
models), answers (whether ours is right).  --write puts each block into docs/benchmarks-cuda.md as
soon as it is measured.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.cpu import document
from benchmarks.cuda import answers, kernels, whole
from benchmarks.cuda.settings import Settings, add_options, settings
from mmc.targets.cuda.driver import device

DOCUMENT = document.DOCUMENT.with_name("benchmarks-cuda.md")

SECTIONS: dict[str, Callable[[Settings], list[str]]] = {
    "answers": answers.own,
    "gemv": kernels.gemv,
    "decode": whole.decode,
    "prefill": whole.prefill,
    "sequences": whole.batched,
    "energy": whole.energy,
    "memory": whole.memory,
    "batch": kernels.batch,
    "scan": kernels.scan,
}
"""Sections in the order in which they are measured, each a block of the document."""

PATHS = ("--prepared", "--w2a8", "--upstream")


def described(chosen: Settings) -> str:
    """One line: date, device, versions."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    found = {"Python": platform.python_version(), "CUDA": str(torch.version.cuda)}
    for name in ("mmc-compiler", "torch", "cuda-bindings"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree that is not installed
            found[name] = "from source"
    versions = ", ".join(f"{name} {number}" for name, number in found.items())
    return f"{today}; {device().name}; {versions}. Rounds: {chosen.rounds}."


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(
        "benchmarks.cuda", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--write", action="store_true", help=f"into {DOCUMENT.name}")
    add_options(parser)
    given = parser.parse_args()
    sections = tuple(given.only.split(",")) if given.only else tuple(SECTIONS)
    if unknown := [name for name in sections if name not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if given.write and (lost := document.missing(DOCUMENT.read_text(), sections)):
        parser.error(f"{DOCUMENT.name} has no place for {', '.join(lost)}")
    chosen = settings(given)
    command = document.shown_command(sys.argv[1:], PATHS, "benchmarks.cuda")
    foot = ["", described(chosen), "", "```", command, "```"]
    for name in sections:
        lines = [*SECTIONS[name](chosen), *foot]
        print("\n".join([f"## {name}", "", *lines, ""]), flush=True)
        if given.write:
            DOCUMENT.write_text(document.put(DOCUMENT.read_text(), name, lines))


if __name__ == "__main__":
    main()
