"""Convert a Transformer in every way, each for as long, and print what each gave as a table.

    python -m benchmarks.convert MODEL --text TEXT --held-out FILE --minutes 10 -o build/converted

or with --steps N instead of minutes.  --only NAME ... makes some of them, several commands several
at once; when all are there the whole command prints the table.

Needs a GPU to get anywhere with more than a toy.  The control trains the MatMul-free model from
random weights for as many steps as the conversion took.  Finished conversions in the folder are
not done again, unfinished ones are resumed.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.conversions import finished, options
from mmc.convert import ConvertOptions, TrainingOptions, convert
from mmc.convert.resume import last_saved, training_folder

RUNS: dict[str, dict[str, Any]] = {
    "ternary": {"to": "ternary"},
    "matmul-free": {"to": "matmul-free"},
    "from-scratch": {"to": "matmul-free", "from_scratch": True},
    "attention-every-2": {"to": "matmul-free", "keep_attention": "every=2"},
    "attention-every-4": {"to": "matmul-free", "keep_attention": "every=4"},
}


def run(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The record of a conversion, made now or before."""
    out = given.out / name
    if record := finished(out):
        return record
    training = TrainingOptions(
        given.steps, None if given.steps else given.minutes, given.batch,
        learning_rate=given.learning_rate, distil=given.distil,
        evaluate_every=given.evaluate_every, save_every=given.save_every,
    )  # fmt: skip
    if RUNS[name].get("from_scratch") and not given.steps:
        same = finished(given.out / "matmul-free")
        if same is None:
            raise SystemExit("the control takes as many steps as matmul-free took: make that first")
        training = replace(training, minutes=None, steps=same["progress"]["steps"])
    chosen = ConvertOptions(
        **RUNS[name], text=tuple(given.text), held_out=given.held_out, training=training,
        resume=last_saved(training_folder(out)) is not None, picture=given.report,
    )  # fmt: skip

    def tell(stage: str, done: float) -> None:
        print(f"{name:<18}{done:6.1%}  {stage}", flush=True)

    return convert(given.model, out, chosen, tell)


def table(records: dict[str, dict[str, Any]]) -> str:
    """One line a conversion; the teacher and its rounding, which are the same in all, above."""
    lines = [
        "| model | nats per token | above the teacher | steps | tokens | seconds | tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    first = next(iter(records.values()))["nats_per_token"]
    teacher = first["teacher"]
    for name in ("teacher", "rounded without training"):
        lines.append(f"| {name} | {first[name]:.4f} | {first[name] - teacher:+.4f} | | | | |")
    for name, record in records.items():
        nats, done = record["nats_per_token"]["converted"], record["progress"]
        lines.append(
            f"| {name} | {nats:.4f} | {nats - teacher:+.4f} | {done['steps']} | {done['tokens']} "
            f"| {done['seconds']:.0f} | {done['tokens_per_second']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steps", type=int, help="instead of minutes, for all")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--distil", type=float, default=0.5)
    parser.add_argument("--evaluate-every", type=int, default=500)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--report", action="store_true", help="draw the curves, too")
    parser.add_argument("--only", nargs="*", choices=list(RUNS), default=list(RUNS))
    given = parser.parse_args()
    records: dict[str, dict[str, Any]] = {}
    for name in given.only:
        records[name] = run(name, given)
        print(table(records), flush=True)


if __name__ == "__main__":
    main()
