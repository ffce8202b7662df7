"""Commands that run an artefact: run, eval, bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mmc.cli.app import Debug, Json, Out, app
from mmc.errors import MmcError
from mmc.progress import Bar

EmbeddingMemory = Annotated[
    str, typer.Option(help="host: a GPU reads rows of the embedding from the host's memory.")
]


@app.command()
def run(
    out: Out,
    prompt: Annotated[str, typer.Option("-p", "--prompt", help="The text to continue.")],
    n: Annotated[int, typer.Option("-n", help="How many tokens to add at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from this much of the probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    stream: Annotated[bool, typer.Option(help="Print tokens as they come.")] = True,
    embedding_memory: EmbeddingMemory = "device",
    debug: Debug = False,
) -> None:
    """Continue a prompt."""
    model = _language_model(out, embedding_memory)
    pieces = model.generate(prompt, n, temperature, top_p, seed, stream=stream)
    print(prompt, end="", flush=True)
    for piece in pieces if stream else [pieces]:
        print(piece, end="", flush=True)
    print()


def _language_model(out: Path, embedding_memory: str) -> Any:
    from mmc.runtime import Model, load

    model = load(out, embedding_memory=embedding_memory)
    if not isinstance(model, Model):
        raise MmcError(
            "is a compiled module, not a language model", str(out), "call it from Python"
        )
    return model


@app.command("eval")
def eval_command(
    out: Out,
    text: Annotated[Path, typer.Option(help="A text file.")],
    tokens: Annotated[int | None, typer.Option(help="Use the first N tokens of it.")] = None,
    window: Annotated[
        int, typer.Option(help="Tokens per window; each starts from an empty state.")
    ] = 512,
    embedding_memory: EmbeddingMemory = "device",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the token perplexity of a text."""
    from dataclasses import asdict

    import numpy as np

    from mmc.perplexity import perplexity

    model = _language_model(out, embedding_memory)
    try:
        ids = np.array(model.encode(text.read_text()), np.int64)[:tokens]
    except UnicodeDecodeError as error:
        raise MmcError(f"is not UTF-8 text: {error.reason}", str(text)) from None
    with Bar() as bar:
        found = perplexity(model, ids, window, lambda done: bar("perplexity", done))
    record = {"kind": "token", "perplexity": found.perplexity, **asdict(found)}
    print(json.dumps(record) if as_json else str(found))


@app.command("bench")
def bench_command(
    out: Out,
    prompt: Annotated[int, typer.Option("-p", help="Tokens of the prompt.")] = 512,
    generate: Annotated[int, typer.Option("-n", help="Tokens to generate.")] = 128,
    threads: Annotated[int, typer.Option("-t", help="Threads.")] = 1,
    repeats: Annotated[int, typer.Option("-r", help="How often each test runs.")] = 5,
    batch: Annotated[int, typer.Option(help="Sequences at a time.")] = 1,
    embedding_memory: EmbeddingMemory = "device",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure tokens a second beside what this machine can read from memory."""
    from mmc.bench import BenchOptions, bench

    options = BenchOptions(prompt, generate, threads, repeats, batch)
    model = _language_model(out, embedding_memory)
    with Bar() as bar:
        found = bench(model, options, lambda done: bar("bench", done))
    print(json.dumps(found.record()) if as_json else str(found))
