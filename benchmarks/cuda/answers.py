"""What ours says, beside the interpreter: speed means nothing where the answers are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import mmc
from benchmarks.cpu.measure import table
from benchmarks.cuda.prepare import ANSWERS, AS_IT_IS, EXAMPLES
from benchmarks.cuda.settings import Settings


def own(settings: Settings) -> list[str]:
    """The example: logits of a random text, and a greedy continuation."""
    folder = settings.prepared / "example"
    wanted = np.load(folder / ANSWERS)
    columns = (
        "weights, embedding", "beside the interpreter on",
        "largest difference of logits over the largest logit",
        "mean difference over the mean logit", "same likeliest token",
        "generated tokens that are the interpreter's, from the first on",
    )  # fmt: skip
    rows: list[list[object]] = []
    for name in EXAMPLES:
        logits, tokens = answer(folder / name, wanted["ids"], wanted[f"{name}.tokens"].shape[1])
        for graph, key in (("the same graphs", name), ("the model as it is", AS_IT_IS)):
            logits_apart = apart(logits, wanted[f"{key}.logits"])
            same = int((tokens == wanted[f"{key}.tokens"]).all(0).cumprod().sum())
            rows.append([name, graph, *logits_apart, f"{same} of {tokens.shape[1]}"])
    return table(columns, rows)


def answer(artefact: Path, ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The logits of a text, and the tokens that follow its beginning."""
    model = mmc.load(artefact)
    assert isinstance(model, mmc.Model)
    model.eos_token_ids = frozenset()
    return model.forward(ids), model.generate(ids[:, :16], count)


def apart(logits: np.ndarray, wanted: np.ndarray) -> tuple[str, str, str]:
    """The largest and the mean difference, and how often the likeliest token is the same."""
    difference, size = np.abs(logits - wanted), np.abs(wanted)
    likeliest = (logits.argmax(-1) == wanted.argmax(-1)).mean()
    shown = f"{difference.max() / size.max():.2e}", f"{difference.mean() / size.mean():.2e}"
    return *shown, f"{likeliest:.4f}"
