"""The course of a training as a table and as a picture."""

# matplotlib's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportMissingImports=false, reportUnknownVariableType=false
from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from mmc.errors import MmcError

COLUMNS = (
    "step", "tokens", "seconds", "loss", "cross_entropy", "gradient_norm", "held_out",
)  # fmt: skip
Curve = Sequence[Mapping[str, float]]


def write_csv(path: Path, curve: Curve) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([row.get(column, "") for column in COLUMNS] for row in curve)


def refuse_without_matplotlib() -> None:
    if find_spec("matplotlib") is None:
        raise MmcError(
            "needs matplotlib, which is not installed", "--report", 'pip install -e ".[convert]"'
        )


def write_png(path: Path, curve: Curve, marks: Mapping[str, float]) -> None:
    """Cross-entropy of the batches, the held-out text, and `marks` as level lines, by tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5))
    axes = figure.add_subplot(xlabel="tokens", ylabel="nats per token")
    tokens = [row["tokens"] for row in curve]
    axes.plot(tokens, [row["cross_entropy"] for row in curve], lw=0.7, label="batches")
    measured = [row for row in curve if "held_out" in row]
    axes.plot(
        [row["tokens"] for row in measured], [row["held_out"] for row in measured], "o-",
        label="held-out text, its first windows",
    )  # fmt: skip
    for name, value in marks.items():
        axes.axhline(value, ls="--", lw=1, color="gray")
        axes.annotate(name, (tokens[-1], value), ha="right", va="bottom", fontsize="small")
    axes.legend()
    axes.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(str(path))
