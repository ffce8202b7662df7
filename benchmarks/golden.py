"""Compare artefacts with the logits that the released code computed in float32.

    python benchmarks/golden.py ARTEFACT... [--golden FILE]

The golden file of examples/mmfree-9m lies in tests/data; `make_golden.py` there says what it holds.
Prints a row for each artefact: the largest difference over the largest logit (first four positions,
all stored positions), how often the most likely token agrees, and the difference of the mean
negative log-likelihood in nats.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

import mmc
from mmc.perplexity import negative_log_likelihood

GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "mmfree-9m-golden.safetensors"


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference over the largest number."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def row(artefact: Path, golden: dict[str, np.ndarray]) -> str:
    """One line of the table."""
    model = mmc.load(artefact)
    assert isinstance(model, mmc.Model)
    ids = golden["input_ids"][None]
    logits = np.asarray(model.forward(ids))[0]
    stored, positions = golden["logits"], golden["positions"]
    nll = negative_log_likelihood(logits[:-1], ids[0, 1:])
    figures = (
        f"{relative(logits[:4], stored[:4]):.1e}",
        f"{relative(logits[positions], stored):.4f}",
        f"{np.mean(logits.argmax(-1) == golden['argmax']):.4f}",
        f"{abs(nll.mean() - golden['nll'].mean()):.5f}",
    )
    target = model.artifact.manifest["target"]
    return f"| {artefact.name} ({target}) | {' | '.join(figures)} |"


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("artefacts", nargs="+", type=Path)
    parser.add_argument("--golden", type=Path, default=GOLDEN)
    given = parser.parse_args()
    golden = load_file(given.golden)
    print("| artefact | first 4 positions | stored positions | same next token | nll difference |")
    print("|---|---|---|---|---|")
    for artefact in given.artefacts:
        print(row(artefact, golden))


if __name__ == "__main__":
    main()
