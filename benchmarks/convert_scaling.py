"""Train the same batches by one process and by two, a GPU each: speed, losses, a resumed run.

    python -m benchmarks.convert_scaling --text TEXT --tokenizer FILE -o build/scaling

The Transformer has random weights in the shape of SmolLM2-135M or of --config, or is --model DIR.
`one` is the training without torchrun; so is `order-N`, with the windows of each batch in another
order, and `parts`, which takes each batch in two halves, one after the other, as two processes take
them at once.  `whole`: both processes hold all of the model (--no-shard).  `shard`: each holds a
part (FSDP2); it is ended by a signal after its first checkpoint and resumed.  What is in the folder
is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.conversions import finished, last_step, options

SMOLLM2: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
    "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
"""https://huggingface.co/HuggingFaceTB/SmolLM2-135M, config.json."""

TORCHRUN = "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"

RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "one": (("mmc",), ()),
    **{f"order-{n}": (("benchmarks.reordered", str(n)), ()) for n in (1, 2, 3)},
    "parts": (("mmc",), ("--accumulate", "2")),
    "whole": ((*TORCHRUN, "mmc"), ("--no-shard",)),
    "shard": ((*TORCHRUN, "mmc"), ()),
}
"""The module that runs, and options of the conversion."""


def write_random(folder: Path, tokenizer: Path, config: dict[str, Any]) -> Path:
    """A checkpoint of that shape."""
    import torch
    from safetensors.torch import save_file

    from mmc.frontends.models.transformer_config import TransformerConfig
    from mmc.nn import Transformer

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    tensors = Transformer(TransformerConfig.parse(config)).tensors()
    save_file(tensors, folder / "model.safetensors")
    return folder


def command(model: Path, out: Path, name: str, given: argparse.Namespace) -> list[str]:
    """What a user would type."""
    module, more = RUNS[name]
    settings = {
        "--to": given.to, "--steps": given.steps, "--batch": given.batch,
        "--window": given.window, "--save-every": given.steps // 3, "--device": given.device,
    }  # fmt: skip
    parts = ["-m", *module, "convert", model, "-o", out]
    texts = (word for path in given.text for word in ("--text", path))
    words = (*parts, *texts, *more, *(word for pair in settings.items() for word in pair))
    return [sys.executable, *map(str, words)]


def killed(words: list[str], out: Path) -> int:
    """Begin the training, end it after its first checkpoint; returns the step it can go on from."""
    process = subprocess.Popen(words)
    while process.poll() is None and not last_step(out):
        time.sleep(0.1)
    process.terminate()
    process.wait()
    return last_step(out)


def run(model: Path, name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The curve of a finished training, its speed, and where it was interrupted."""
    out = given.out / name
    interrupted = out.with_suffix(".interrupted")
    if not finished(out):
        words = command(model, out, name, given)
        interrupted.write_text(str(killed(words, out) if name == "shard" else 0))
        subprocess.run([*words, "--resume"] if last_step(out) else words, check=True)
    resumed_at = int(interrupted.read_text())
    with (out / "curve.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    record = finished(out)
    assert record is not None, "the command went well"
    found = {"rows": rows, "resumed_at": resumed_at, "record": record}
    return found | {"tokens/s": speed([row for row in rows if row["step"] > resumed_at + 5])}


def speed(rows: list[dict[str, float]]) -> float:
    """Tokens per second: the median over ten steps each, of which some hold a checkpoint.

    The first rows after a start are not among them: there everything is compiled.
    """
    return statistics.median(
        (new["tokens"] - old["tokens"]) / (new["seconds"] - old["seconds"])
        for old, new in pairwise(rows)
    )


def table(runs: dict[str, dict[str, Any]]) -> str:
    """One line a run, compared with the first, and its losses with each before it."""
    first = next(iter(runs.values()))
    lines = [
        "| run | tokens/s | times | loss at the end | resumed at step | losses apart from |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in runs.items():
        earlier = list(runs)[: list(runs).index(name)]
        apart = ", ".join(f"{other} {distance(found, runs[other]):.2g}" for other in earlier)
        lines.append(
            f"| {name} | {found['tokens/s']:,.0f} | {found['tokens/s'] / first['tokens/s']:.2f} "
            f"| {found['rows'][-1]['loss']:.4f} | {found['resumed_at'] or ''} | {apart} |"
        )
    return "\n".join(lines)


def distance(found: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of their losses, in nats."""
    pairs = zip(found["rows"], other["rows"], strict=True)
    return max(abs(new["loss"] - old["loss"]) for new, old in pairs)


def main() -> None:
    """Read the command line."""
    parser = options(__doc__)
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, for random weights")
    parser.add_argument("--model", type=Path, help="instead of random weights")
    parser.add_argument("--to", default="matmul-free")
    parser.add_argument("--config", type=Path, help="config.json, for random weights")
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    if not (given.model or given.tokenizer):
        parser.error("--model or --tokenizer is needed")
    given.out.mkdir(parents=True, exist_ok=True)
    model = given.model or given.out / "random"
    if not model.exists():
        config = json.loads(given.config.read_text()) if given.config else SMOLLM2
        write_random(model, given.tokenizer, config)
    runs: dict[str, dict[str, Any]] = {}
    for name in given.runs:
        runs[name] = run(model, name, given)
        print(f"{name}: {runs[name]['record']['device']}")
    print(table(runs))


if __name__ == "__main__":
    main()
