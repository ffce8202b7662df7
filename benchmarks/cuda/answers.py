"""What ours says, beside the interpreter: speed means nothing where the answers are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

import mmc
from benchmarks.cpu.measure import table
from benchmarks.cuda.prepare import ANSWERS, EXAMPLES
from benchmarks.cuda.settings import Settings


def own(settings: Settings) -> list[str]:
    """The example: logits of a random text, and a greedy continuation."""
    folder = settings.prepared / "example"
    wanted = np.load(folder / ANSWERS)
    columns = (
        "weights, embedding", "largest difference of logits over the largest logit",
        "mean difference over the mean logit", "same likeliest token",
        "generated tokens that are the interpreter's, from the first on",
    )  # fmt: skip
    return table(columns, [[name, *compared(folder / name, wanted)] for name in EXAMPLES])


def compared(artefact: Path, wanted: Mapping[str, np.ndarray]) -> list[str]:
    """What one artefact says, beside the interpreter with the embedding as it is."""
    model = mmc.load(artefact)
    assert isinstance(model, mmc.Model)
    model.eos_token_ids = frozenset()
    logits = model.forward(wanted["ids"])
    apart, size = np.abs(logits - wanted["logits"]), np.abs(wanted["logits"])
    likeliest = (logits.argmax(-1) == wanted["logits"].argmax(-1)).mean()
    tokens = model.generate(wanted["ids"][:, :16], wanted["tokens"].shape[1])
    same = int((tokens == wanted["tokens"]).all(0).cumprod().sum())
    differences = f"{apart.max() / size.max():.2e}", f"{apart.mean() / size.mean():.2e}"
    return [*differences, f"{likeliest:.4f}", f"{same} of {tokens.shape[1]}"]
