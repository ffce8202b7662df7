"""Commands that build: compile, tune, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mmc.cli.app import Checkpoint, Debug, Json, Out, PrintAfter, app
from mmc.progress import Bar


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
    print_after: PrintAfter = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Packing of ternary weights: auto, 2bit, ... (see `mmc targets`)."),
    ] = None,
    mcpu: Annotated[
        str | None,
        typer.Option(help="Code for one processor by its LLVM name, or native; not portable."),
    ] = None,
    embedding: Annotated[
        str | None,
        typer.Option(help="int8 or int4 rounds the embedding to 8 or 4 bits: less memory."),
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
    kv_cache: Annotated[
        str | None,
        typer.Option(help="int8 keeps the caches of attention in 8 bits: less memory, lossy."),
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
        embedding, tuning, board, target_tps, context, i2s, kv_cache,
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
        + (", caches in int8" if sizes["kv_cache"] == "int8" else "")
    )


@app.command("tune")
def tune_command(out: Out, debug: Debug = False) -> None:
    """Build an artefact again with what measures fastest on the GPU that is here."""
    from mmc.tune import tune

    with Bar() as bar:
        told = tune(out, bar)
    print("\n".join(told))


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
