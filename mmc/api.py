"""The Python face: `mmc.compile` and `mmc.load`."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Any

from mmc.artifact import Artifact
from mmc.driver import CompileOptions, Progress, compile_model, refuse_early
from mmc.errors import MmcError
from mmc.fpga import FpgaModel
from mmc.frontends.base import Imported
from mmc.ir.intern import own_world
from mmc.runtime import load

__all__ = ["compile", "import_source", "load"]

_FACES: dict[str, type[Artifact]] = {"fpga": FpgaModel}
"""Targets whose artefacts can do more than be loaded."""


def compile(
    source: Any,
    example_inputs: tuple[Any, ...] | None = None,
    *,
    target: str = "cpu",
    out: str | Path | None = None,
    dynamic_shapes: Any = None,
    weights: str | None = None,
    mcpu: str | None = None,
    embedding: str | None = None,
    tuning: str | Path | None = None,
    board: str | None = None,
    target_tps: float | None = None,
    context: int | None = None,
    i2s: str | None = None,
    kv_cache: str | None = None,
    check: bool = False,
    no_fallback: bool = False,
    require_matmul_free: bool = False,
    dump_ir: str | Path | None = None,
    progress: Progress = lambda _, __: None,
) -> Artifact:
    """Compile a model directory, a file, an nn.Module or an ExportedProgram for a target.

    source: a directory in Hugging Face layout, a file MODEL.gguf, MODEL.onnx or MODEL.pt2 (what
        `torch.export.save` wrote), or a module together with `example_inputs`.
    dynamic_shapes: as for torch.export; `Dim("B")` becomes the symbol B.
    out: where the artefact goes; a new folder in the temporary directory where it is None.
    weights: packing of ternary weights: "2bit", "1.67bit", "1.6bit", or "auto" for the fastest.
    mcpu: make code for this one LLVM processor ("znver4", "native") instead of for several.
    board: for the target fpga, a board's name or a .toml file; target_tps: tokens a second that the
    hardware shall be large enough for.
    embedding: "int8" or "int4" rounds the embedding to 8 or 4 bits; None leaves it as it is.
    tuning: a file that `mmc tune` wrote for a model of these shapes.
    context: how many positions the caches of a Transformer hold; None for at most 4096.
    i2s: which trits share a byte in a GGUF file with I2_S matrices: "128", "64" or "rows"; None
    tells it by the values.
    kv_cache: "int8" keeps what attention remembers in 8 bits a number; None in float32.
    check: run every pass's graphs before and after on probe inputs, and every kernel.
    Raises MmcError; nothing half-written stays.  For the target fpga the result is a `FpgaModel`.
    """
    if out is None:
        out = Path(tempfile.gettempdir(), f"mmc-{secrets.token_hex(8)}")
    folder = Path(out)
    options = CompileOptions(
        target,
        weights,
        check,
        no_fallback,
        require_matmul_free,
        None if dump_ir is None else Path(dump_ir),
        mcpu=mcpu,
        embedding=embedding,
        tuning=None if tuning is None else Path(tuning),
        board=board,
        target_tps=target_tps,
        context=context,
        i2s=i2s,
        kv_cache=kv_cache,
    )
    made = compile_source(source, folder, options, progress, example_inputs, dynamic_shapes)
    return _FACES.get(made.manifest["target"], Artifact)(made.path, made.manifest)


def compile_source(
    source: Any,
    folder: Path,
    options: CompileOptions,
    progress: Progress,
    example_inputs: tuple[Any, ...] | None = None,
    dynamic_shapes: Any = None,
) -> Artifact:
    """`compile` with its options in one record, as the command line has them."""
    refuse_early(folder, options)
    with own_world():
        imported = import_source(
            source, example_inputs, dynamic_shapes, options.context, options.i2s
        )
        if options.context is not None and imported.context is None:
            raise MmcError("the model has no caches", "--context", "leave it out")
        return compile_model(imported, folder, options, progress)


def import_source(
    source: Any,
    example_inputs: tuple[Any, ...] | None = None,
    dynamic_shapes: Any = None,
    context: int | None = None,
    i2s: str | None = None,
) -> Imported:
    """The model in the IR, by the frontend that fits."""
    if i2s is not None and (not isinstance(source, str | Path) or Path(source).suffix != ".gguf"):
        raise MmcError("only matrices in a GGUF file are I2_S", "--i2s", "leave it out")
    if isinstance(source, str | Path) and Path(source).suffix == ".onnx":
        from mmc.frontends.onnx_import import load_onnx

        return load_onnx(source)
    if isinstance(source, str | Path) and Path(source).suffix == ".pt2":
        from mmc.frontends.torch_export import load_exported

        return load_exported(Path(source))
    if isinstance(source, str | Path):
        from mmc.frontends.checkpoint import load as load_checkpoint

        return load_checkpoint(Path(source), context, i2s)
    from mmc.frontends.torch_export import import_module

    return import_module(source, example_inputs or (), dynamic_shapes)
