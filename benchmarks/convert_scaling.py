"""Train the same batches by one process and by more, one GPU each: speed, losses, a resumed run.

    python benchmarks/convert_scaling.py --text TEXT --tokenizer FILE -o build/scaling

The Transformer has random weights in the shape of SmolLM2-135M, or is --model DIR.  Every run but
the first is ended by a signal after its first checkpoint and resumed.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SMOLLM2: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
    "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
"""https://huggingface.co/HuggingFaceTB/SmolLM2-135M, config.json."""


def write_random(folder: Path, tokenizer: Path) -> Path:
    """A checkpoint of that shape."""
    import torch
    from safetensors.torch import save_file

    from mmc.frontends.models.transformer_config import TransformerConfig
    from mmc.nn import Transformer

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMOLLM2))
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    tensors = Transformer(TransformerConfig.parse(SMOLLM2)).tensors()
    save_file(tensors, folder / "model.safetensors")
    return folder


def command(model: Path, out: Path, count: int, given: argparse.Namespace) -> list[str]:
    """What a user would type."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
    options = {
        "--to": given.to, "--text": given.text, "--steps": given.steps, "--batch": given.batch,
        "--window": given.window, "--save-every": given.steps // 3, "--device": given.device,
    }  # fmt: skip
    parts = [*torchrun, count, "-m", "mmc", "convert", model, "-o", out]
    return [str(part) for part in (*parts, *(word for pair in options.items() for word in pair))]


def killed(words: list[str], out: Path) -> int:
    """Begin the training, end it after its first checkpoint; returns the step it can go on from."""
    folder = out.with_name(f"{out.name}.training")
    process = subprocess.Popen(words)
    while process.poll() is None and not saved(folder):
        time.sleep(0.1)
    process.terminate()
    process.wait()
    return saved(folder)


def saved(folder: Path) -> int:
    steps = (int(path.parent.name[5:]) for path in folder.glob("step-*/progress.json"))
    return max(steps, default=0)


def run(model: Path, count: int, given: argparse.Namespace) -> dict[str, Any]:
    """The curve of a finished training, its speed, and where it was interrupted."""
    out = given.out / f"{count}-processes"
    words = command(model, out, count, given)
    resumed_at = killed(words, out) if count > min(given.processes) else 0
    subprocess.run([*words, "--resume"] if resumed_at else words, check=True)
    with (out / "curve.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    # What was compiled and read again is behind the first rows after the start.
    first, last = next(row for row in rows if row["step"] > resumed_at + 5), rows[-1]
    speed = (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])
    record = json.loads((out / "conversion.json").read_text())
    return {"rows": rows, "tokens/s": speed, "resumed_at": resumed_at, "record": record}


def table(runs: dict[int, dict[str, Any]]) -> str:
    """One line a number of processes; the first is what the others are compared with."""
    one = next(iter(runs.values()))
    lines = [
        "| processes | tokens/s | times | loss at the end | largest difference | resumed at step |",
        "|---|---|---|---|---|---|",
    ]
    for count, found in runs.items():
        pairs = zip(found["rows"], one["rows"], strict=True)
        apart = max(abs(new["loss"] - old["loss"]) for new, old in pairs)
        lines.append(
            f"| {count} | {found['tokens/s']:,.0f} | {found['tokens/s'] / one['tokens/s']:.2f} "
            f"| {found['rows'][-1]['loss']:.4f} | {apart:.4f} | {found['resumed_at'] or ''} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, for random weights")
    parser.add_argument("--model", type=Path, help="instead of random weights")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--to", default="matmul-free")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    if not (given.model or given.tokenizer):
        parser.error("--model or --tokenizer is needed")
    model = given.model or write_random(given.out / "random", given.tokenizer)
    runs: dict[int, dict[str, Any]] = {}
    for count in given.processes:
        runs[count] = run(model, count, given)
        print(f"{count}: {runs[count]['record']['device']}")
    print(table(runs))


if __name__ == "__main__":
    main()
