"""Whether the programs that are compared compute what they should.

    python -m benchmarks.cpu.answers ARTEFACT LOGITS.npy

writes the logits of a short prompt; the section `answers` runs it and compares MMC with its
interpreter (target reference) on the very models that are measured.  The section `peers` says what
was checked of the others, and what was not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import mmc
from benchmarks.cpu.measure import run, table
from benchmarks.cpu.models import artefact, gguf, reference
from benchmarks.cpu.programs import litespark_facts
from benchmarks.cpu.settings import Settings, bits

LLAMA = Path(__file__).with_name("llama_answers.py")
PROMPTS, TOKENS = 16, 4
SAME = 1e-5
"""Differences below are sums in another order; above, an int8 activation rounded the other way."""
COLUMNS = (
    "weights", "code", f"of {PROMPTS * TOKENS} positions within {SAME:.0e}", "worst of these",
    "worst of all", "same most likely token",
)  # fmt: skip


def own(settings: Settings, shape: str) -> list[str]:
    """Differences from the interpreter, the largest of a position over the largest logit."""
    wanted = logits(reference(settings.build, shape), None)
    rows: list[list[object]] = []
    certified: list[str] = []
    for weights in settings.layouts:
        path = artefact(settings.build, shape, weights, check=True)
        certified.append(f"- {bits(weights)}: {certificate(path)}")
        for isa in (None, settings.isa):
            found = logits(path, isa)
            rows.append([bits(weights), isa or "the best here", *figures(found, wanted)])
    return [*table(COLUMNS, rows), "", "Kernel by kernel, as `mmc compile --check` found:", "",
            *certified]  # fmt: skip


def certificate(path: Path) -> str:
    """What `--check` compared, in one line."""
    found = json.loads((path / "certificate.json").read_text())["target"]
    return (
        f"{found['kernels']} kernels ({found['instruction_set']}), {found['sums']} integer sums "
        f"identical, {len(found['flips'])} of {found['activations']} activations rounded the "
        f"other way, floats within {found['float_error']:.1e}"
    )


def figures(found: np.ndarray, wanted: np.ndarray) -> list[object]:
    """How many positions agree, how far the rest is off, and how often the choice is the same."""
    worst = np.abs(found - wanted).max(-1) / np.abs(wanted).max()
    close = worst[worst < SAME]
    chosen = np.count_nonzero(found.argmax(-1) == wanted.argmax(-1))
    return [close.size, f"{close.max(initial=0):.1e}", f"{worst.max():.1e}", chosen]


def peers(settings: Settings) -> list[str]:
    """What was checked of the peers in this run, and what was not."""
    return [*llama(settings), *litespark(settings)]


def llama(settings: Settings) -> list[str]:
    """Its ternary types against its F16, on the same digits."""
    if not settings.llama_python:
        return ["- llama.cpp: not checked (no --llama-python)."]
    files = [gguf(settings.build, "370m", kind, "f16") for kind in ("f16", "tq2_0", "tq1_0")]
    said = run([settings.llama_python, LLAMA, *files]).text.splitlines()
    return [
        "- llama.cpp: logits of its ternary types against those of its own F16, same digits,",
        "  embedding and output F16. Q4_0, and F16 itself, were not checked.",
        *(f"  - {line}" for line in said),
    ]


def litespark(settings: Settings) -> list[str]:
    """A matrix of it against numpy, and its prompts against itself."""
    if not settings.litespark:
        return ["- litespark-inference: not checked (no --litespark)."]
    facts = litespark_facts(settings.litespark)
    said = "; ".join(f"{n} tokens: {value:.3f}" for n, value in facts["agreement"].items())
    return [
        f"- litespark-inference {facts['version']}: one projection (2560 x 6912) against numpy's",
        f"  int32 sums, largest difference over the largest number {facts['product_error']:.1e}.",
        "  Last logits of a prompt in one piece against the same tokens one by one, correlation:",
        f"  {said}. The tables feed it prompts in pieces of 64.",
        "  Head and attention were not checked.",
    ]


def logits(path: Path, isa: str | None) -> np.ndarray:
    """Logits [B, T, V] in a process of its own, which may be told the instruction set."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits.npy"
        command = [sys.executable, "-m", "benchmarks.cpu.answers", path, out]
        run(command, {"MMC_CPU_ISA": isa} if isa else {})
        return np.load(out)


def main() -> None:
    """Write the logits of one artefact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artefact", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    model = mmc.load(given.artefact)
    assert isinstance(model, mmc.Model)
    ids = np.random.default_rng(0).integers(0, model.vocab_size, (PROMPTS, TOKENS))
    np.save(given.out, np.asarray(model.forward(ids)))


if __name__ == "__main__":
    main()
