"""The command that turns a Transformer into another model: convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mmc.cli.app import Debug, Json, app
from mmc.progress import Bar


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="A Llama or Qwen2: Hugging Face folder or GGUF.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The directory to write.")],
    to: Annotated[str, typer.Option(help="ternary (attention stays) or matmul-free.")],
    text: Annotated[
        list[Path] | None, typer.Option(help="What to train on; may be given again; .gz is read.")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="What to measure with; else the end of the text.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps to train.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Or how long.")] = None,
    keep_attention: Annotated[
        str | None, typer.Option(help="Layers that keep attention: every=4 or layers=0,3.")
    ] = None,
    gate_order: Annotated[
        str, typer.Option(help="Of the MLGRU: released, paper or hgrn.")
    ] = "released",
    batch: Annotated[int, typer.Option(help="Windows a step.")] = 32,
    window: Annotated[int, typer.Option(help="Tokens a window.")] = 512,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 2e-3,
    distil: Annotated[float, typer.Option(help="The teacher's share of the loss.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of random weights and batches.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, a third more time.")
    ] = False,
    accumulate: Annotated[
        int, typer.Option(help="Parts of a batch, one after another: less memory.")
    ] = 1,
    shard: Annotated[
        bool, typer.Option(help="With torchrun: a part of the model in each process, or all.")
    ] = True,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was interrupted.")
    ] = False,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Random weights, no teacher: the control.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Draw the curve; needs the extra `convert`.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Turn a Transformer into a ternary or MatMul-free model, trained where a text is given."""
    from mmc.convert import ConvertOptions, TrainingOptions, convert
    from mmc.convert.processes import together

    training = TrainingOptions(
        steps, minutes, batch, window, learning_rate, distil=distil, seed=seed,
        checkpointing=gradient_checkpointing, accumulate=accumulate, shard=shard,
        save_every=save_every,
    )  # fmt: skip
    options = ConvertOptions(
        to, keep_attention, gate_order, tuple(text or ()), held_out, training, device,
        from_scratch, resume, report,
    )  # fmt: skip
    with together(device) as processes:
        with Bar(shown=processes.rank == 0) as bar:
            record = convert(source, out, options, bar, processes)
        if processes.rank == 0:
            print(json.dumps(record) if as_json else f"{out}: {summary(record)}")


def summary(record: dict[str, Any]) -> str:
    """What a conversion gave, in a line or a few."""
    made = f"{record['model_type']}, {record['parameters'] / 1e6:.2f} M parameters"
    if record["training"] is None:
        return f"{made}; not trained: expect no sentence that makes sense (--text FILE trains it)"
    progress = record["progress"]
    lines = [
        f"{made}; {progress['steps']} steps, {progress['tokens']} tokens in "
        f"{progress['seconds']:.1f} s ({progress['tokens_per_second']:.0f} tokens/s)",
        f"nats per token of {record['text']['held_out_tokens']} held-out tokens:",
    ]
    figures = record["nats_per_token"].items()
    return "\n".join([*lines, *(f"  {name:<26}{nats:.4f}" for name, nats in figures)])
