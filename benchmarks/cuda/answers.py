"""What ours says, beside the interpreter: speed means nothing where the answers are wrong."""

from __future__ import annotations

import numpy as np

import mmc
from benchmarks.cpu.measure import table
from benchmarks.cuda.prepare import ANSWERS
from benchmarks.cuda.settings import Settings


def own(settings: Settings) -> list[str]:
    """The example: logits of a random text, and a greedy continuation."""
    folder = settings.prepared / "example"
    model, wanted = mmc.load(folder / "artefact"), np.load(folder / ANSWERS)
    assert isinstance(model, mmc.Model)
    model.eos_token_ids = frozenset()
    logits = model.forward(wanted["ids"])
    apart = np.abs(logits - wanted["logits"]).max() / np.abs(wanted["logits"]).max()
    likeliest = (logits.argmax(-1) == wanted["logits"].argmax(-1)).mean()
    tokens = model.generate(wanted["ids"][:, :16], wanted["tokens"].shape[1])
    same = int((tokens == wanted["tokens"]).all(0).cumprod().sum())
    row = [f"{apart:.2e}", f"{likeliest:.4f}", f"{same} of {tokens.shape[1]}"]
    columns = (
        "largest difference of logits over the largest logit", "same likeliest token",
        "generated tokens that are the interpreter's, from the first on",
    )  # fmt: skip
    return table(columns, [row])
