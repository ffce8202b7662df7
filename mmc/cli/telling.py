"""Commands that tell: of a model, of the passes, of the targets, of this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmc.cli.app import Debug, Json, PrintAfter, app
from mmc.progress import Bar


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
def opt(
    file: Annotated[str, typer.Argument(help="A graph in text form; - reads standard input.")],
    passes: Annotated[str, typer.Option(help="Passes in order: a,b{option=value}.")],
    print_after: PrintAfter = None,
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
