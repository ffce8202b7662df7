"""The command line: every command is a few lines over the Python face."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mmc.cli_convert import convert_command
from mmc.errors import MmcError
from mmc.progress import Bar

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_state = {"debug": bool(os.environ.get("MMC_DEBUG"))}


def _set_debug(value: bool) -> None:
    _state["debug"] |= value


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(f"mmc {version('mmc-compiler')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version)
    ] = False,
) -> None:
    """MMC compiles trained ternary, recurrent language models."""


Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_set_debug)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Checkpoint = Annotated[
    Path,
    typer.Argument(help="A directory in Hugging Face layout, MODEL.gguf, MODEL.onnx or MODEL.pt2."),
]
Out = Annotated[Path, typer.Argument(help="An artefact that `mmc compile` wrote.")]


def main() -> None:
    """Run a command; an error is one message on stderr and exit code 1."""
    try:
        app(standalone_mode=False)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except (MmcError, OSError) as error:
        if _state["debug"]:
            raise
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception as error:
        message = _usage_message(error)
        if message is not None:
            _fail(f"{message} (see --help)", 2) if message else sys.exit(2)
        if _state["debug"]:
            raise
        _fail(f"internal error: {type(error).__name__}: {error} (--debug shows the traceback)")


def _usage_message(error: Exception) -> str | None:
    """What is wrong with the command line; empty where help was printed; None for other errors."""
    told = getattr(error, "format_message", None)
    return None if told is None else str(told())


def _fail(message: str, code: int = 1) -> None:
    sys.stdout.flush()
    print(f"mmc: error: {message}", file=sys.stderr)
    sys.exit(code)


@app.command("compile")
def compile_command(
    checkpoint: Checkpoint,
    target: Annotated[
        str, typer.Option(help="Such as cpu or cuda:sm_90a; see `mmc targets`.")
    ] = "cpu",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where the artefact goes.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run every pass and kernel against the interpreter.")
    ] = False,
    dump_ir: Annotated[
        Path | None, typer.Option(help="Write the graph after every pass there too.")
    ] = None,
    print_after: Annotated[
        str | None, typer.Option(help="Print what a pass (or `all`) changed, on stderr.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Packing of ternary weights: auto, 2bit, ... (see `mmc targets`)."),
    ] = None,
    mcpu: Annotated[
        str | None,
        typer.Option(help="Code for one processor by its LLVM name, or native; not portable."),
    ] = None,
    embedding: Annotated[
        str | None, typer.Option(help="int8 rounds the embedding to 8 bits: less memory.")
    ] = None,
    tuning: Annotated[
        Path | None, typer.Option(help="What `mmc tune` wrote for a model of these shapes.")
    ] = None,
    board: Annotated[
        str | None, typer.Option(help="FPGA: a board's name, or a .toml file like boards/*.toml.")
    ] = None,
    target_tps: Annotated[
        float | None, typer.Option(help="FPGA: tokens a second that it shall be large enough for.")
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, help="How many positions the caches of a Transformer hold."),
    ] = None,
    i2s: Annotated[
        str | None, typer.Option(help="Trits that share a byte of I2_S in GGUF: 128, 64 or rows.")
    ] = None,
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Fail where a part would take a slow path.")
    ] = False,
    require_matmul_free: Annotated[
        bool, typer.Option("--require-matmul-free", help="Fail where a MatMul is left.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile a trained checkpoint for a target."""
    from mmc.api import compile_source
    from mmc.driver import CompileOptions

    folder = out or Path(f"{checkpoint.resolve().name}-{target.replace(':', '-')}")
    options = CompileOptions(
        target, weights, check, no_fallback, require_matmul_free, dump_ir, print_after, mcpu,
        embedding, tuning, board, target_tps, context, i2s,
    )  # fmt: skip
    with Bar() as bar:
        artifact = compile_source(checkpoint, folder, options, bar)
    if as_json:
        return print(json.dumps({"path": str(folder), "manifest": artifact.manifest}))
    print(f"{folder}: {summary(artifact.manifest)}")


def summary(manifest: Any) -> str:
    """One line that says what an artefact is."""
    from mmc.report import in_bytes

    sizes, layers = manifest["sizes"], manifest["layers"]
    ternary = sum(layer["ternary"] for layer in layers)
    bits = sizes["bits_per_ternary_weight"]
    packed = f" ({bits:.2f} bits per ternary weight)" if bits else ""
    return (
        f"{manifest['target']}, {ternary} of {len(layers)} linear layers ternary, "
        f"weights {in_bytes(sizes['weight_bytes_total'])}{packed}, "
        f"state {in_bytes(sizes['state_bytes_per_sequence'])} per sequence"
    )


@app.command()
def run(
    out: Out,
    prompt: Annotated[str, typer.Option("-p", "--prompt", help="The text to continue.")],
    n: Annotated[int, typer.Option("-n", help="How many tokens to add at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from this much of the probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    stream: Annotated[bool, typer.Option(help="Print tokens as they come.")] = True,
    debug: Debug = False,
) -> None:
    """Continue a prompt."""
    model = _language_model(out)
    pieces = model.generate(prompt, n, temperature, top_p, seed, stream=stream)
    print(prompt, end="", flush=True)
    for piece in pieces if stream else [pieces]:
        print(piece, end="", flush=True)
    print()


def _language_model(out: Path) -> Any:
    from mmc.runtime import Model, load

    model = load(out)
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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the token perplexity of a text."""
    from dataclasses import asdict

    import numpy as np

    from mmc.perplexity import perplexity

    model = _language_model(out)
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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure tokens a second beside what this machine can read from memory."""
    from mmc.bench import BenchOptions, bench

    options = BenchOptions(prompt, generate, threads, repeats, batch)
    with Bar() as bar:
        found = bench(_language_model(out), options, lambda done: bar("bench", done))
    print(json.dumps(found.record()) if as_json else str(found))


@app.command("tune")
def tune_command(out: Out, debug: Debug = False) -> None:
    """Build an artefact again with what measures fastest on the GPU that is here."""
    from mmc.tune import tune

    with Bar() as bar:
        told = tune(out, bar)
    print("\n".join(told))


@app.command("estimate")
def estimate_command(
    source: Annotated[
        str,
        typer.Argument(help="A model directory, a size such as 370M, or hidden=N,layers=N,wide=N."),
    ],
    board: Annotated[str, typer.Option(help="A board's name, or a .toml file like boards/*.toml.")],
    target_tps: Annotated[
        float | None, typer.Option(help="The smallest engine that reaches these tokens/s.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Code of weights: auto, 2b1t, 5b3t or 8b5t.")
    ] = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what an FPGA board makes of a model: cycles, tokens/s, resources."""
    from mmc.estimate import estimate_source, render

    found = estimate_source(source, board, weights, target_tps)
    print(json.dumps(found.record()) if as_json else render(found))


@app.command()
def inspect(
    source: Annotated[
        Path, typer.Argument(help="A model directory, MODEL.gguf, MODEL.onnx or an artefact.")
    ],
    sensitivity: Annotated[
        Path | None,
        typer.Option(help="A text: what a Transformer loses of it with each layer."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="How many tokens of that text.")] = 8192,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say of every layer whether it is ternary, and why not."""
    if sensitivity is not None:
        from mmc.convert.sensitivity import sensitivity as measured

        with Bar() as bar:
            ranking = measured(source, sensitivity, tokens, bar)
        return print(json.dumps(ranking.record()) if as_json else str(ranking))
    from mmc.inspection import inspect_source, render_inspection

    found = inspect_source(source)
    print(json.dumps(found) if as_json else render_inspection(found))


@app.command("import-report")
def import_report_command(
    source: Annotated[Path, typer.Argument(help="A model directory, MODEL.onnx or MODEL.pt2.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what was recognised in a model, by which evidence, and what was not and why."""
    from mmc.import_report import import_report, render_import_report

    found = import_report(source)
    print(json.dumps(found) if as_json else render_import_report(found))


@app.command("export")
def export_command(
    out: Out,
    format: Annotated[str, typer.Option(help="onnx: ternary layers as MatMulInteger.")] = "onnx",
    to: Annotated[Path | None, typer.Option("-o", "--out", help="Where the file goes.")] = None,
    debug: Debug = False,
) -> None:
    """Write an artefact's model for other runtimes."""
    from mmc.export import export
    from mmc.report import in_bytes

    path = to or Path(f"{out.resolve().name}.{format}")
    export(out, path, format)
    print(f"{path}: {in_bytes(path.stat().st_size)}")


@app.command()
def opt(
    file: Annotated[str, typer.Argument(help="A graph in text form; - reads standard input.")],
    passes: Annotated[str, typer.Option(help="Passes in order: a,b{option=value}.")],
    print_after: Annotated[
        str | None, typer.Option(help="Print what a pass (or `all`) changed, on stderr.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Run passes over a graph in text form and write the graph."""
    from mmc.ir.tensors import Tensors
    from mmc.ir.text import parse, render
    from mmc.passes.manager import PassManager
    from mmc.passes.registry import parse_pipeline

    text = sys.stdin.read() if file == "-" else Path(file).read_text()
    manager = PassManager(Tensors())
    graph = manager.run(parse(text, "<stdin>" if file == "-" else file), parse_pipeline(passes))
    for step in manager.steps:
        if print_after in ("all", step.name):
            print(step.summary(), step.diff(), sep="\n", file=sys.stderr)
    print(render(graph), end="")


app.command("convert")(convert_command)


@app.command("passes")
def passes_command(debug: Debug = False) -> None:
    """List the passes, in the order in which they run."""
    from mmc.passes.registry import PASSES, describe

    for name in PASSES:
        what, options = describe(name)
        given = "".join(f" {key}={value}" for key, value in options.items())
        print(f"{name}{given}\n    {what}")


@app.command("targets")
def targets_command(as_json: Json = False, debug: Debug = False) -> None:
    """List the targets, and whether each works on this machine."""
    from mmc.targets.registry import TARGETS, load_target

    found = {name: load_target(name) for name in TARGETS}
    if as_json:
        return print(
            json.dumps(
                {
                    n: {
                        "problems": t.problems(),
                        "about": t.capabilities.description,
                        "here": "" if t.problems() else t.here(),
                    }
                    for n, t in found.items()
                }
            )
        )
    for name, target in found.items():
        problems = target.problems()
        print(f"{name:<12}{'works' if not problems else 'does not work: ' + '; '.join(problems)}")
        print(f"    {target.capabilities.description}")
        if not problems and target.here():
            print(f"    here: {target.here()}")
        if target.capabilities.weight_layouts:
            print(f"    --weights {' or '.join(target.capabilities.weight_layouts)}")


@app.command()
def doctor(debug: Debug = False) -> None:
    """Say what this machine has and what is missing."""
    from mmc.doctor import diagnose

    healthy = True
    for line in diagnose():
        print(line)
        healthy &= not line.startswith("missing")
    if not healthy:
        raise typer.Exit(1)
