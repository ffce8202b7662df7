"""Import a PyTorch module: trace it with torch.export, then translate operation by operation.

Tracing is non-strict and keeps composite operations (linear, silu, rms_norm) whole.  Torch's own
decompositions are asked only for what writes in place or what the table does not know: retracing
costs more than the first trace.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch._decomp import get_decompositions
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from mmc.errors import MmcError
from mmc.frontends.associative import step_by_step
from mmc.frontends.base import Imported, Stored
from mmc.frontends.fx_graph import operations, unknown_operations
from mmc.frontends.fx_import import Traced, named_outputs, translate
from mmc.frontends.substitute import Substituted, class_name, substituted, untraceable
from mmc.ir.graph import graph_of

_HARMLESS = ("aten.detach_.default",)
"""In-place by name, yet the value is the same."""


def import_module(
    module: torch.nn.Module | ExportedProgram,
    example_inputs: tuple[Any, ...] = (),
    dynamic_shapes: Any = None,
    name: str = "main",
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    weights: Mapping[str, Stored] | None = None,
    layers: Mapping[str, Traced] | None = None,
) -> Imported:
    """The module as a graph, its parameters as tensors.

    example_inputs: positional arguments of `forward`; a dynamic dimension needs a size above 1.
    dynamic_shapes: as for torch.export; `Dim("B")` becomes the symbol B.
    input_names, output_names: for the tensors in order; a name in both makes a state.
    weights: where the parameters' values lie; by default in the module itself.
    layers: what each `torch.ops.mmc.layer` stands for, by its path.
    Raises MmcError where torch cannot trace the module or an operation has no translation.
    """
    told: tuple[Substituted, ...] = ()
    if isinstance(module, ExportedProgram):
        source, traced = "an exported program", Traced(_lowered(module), {})
    else:
        source = type(module).__qualname__
        with substituted(module) as (traceable, told):
            traced = trace(traceable, example_inputs, dynamic_shapes)
    given, made, tensors = translate(traced, weights or {}, layers or {}, input_names)
    outputs = named_outputs(traced.program, made, given, output_names)
    graph = graph_of(name, outputs, given)
    return Imported(graph, tensors, "module", source, substituted=told)


def load_exported(path: Path) -> Imported:
    """What torch.export.save wrote; raise MmcError where it is something else.

    Torch decides what a file may do while it is read: take files from people you trust.
    """
    if not path.is_file():
        raise MmcError("there is no such file", str(path))
    if not is_zipfile(path):
        raise MmcError("is no program of torch.export: not a zip archive", str(path))
    try:
        program = torch.export.load(path)
    except Exception as error:  # of a damaged archive torch raises whatever it meets
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MmcError(f"is no program of torch.export: {first}", str(path)) from error
    return replace(import_module(program), source=str(path))


def trace(module: torch.nn.Module, inputs: tuple[Any, ...], dynamic_shapes: Any = None) -> Traced:
    """The module as torch sees it, in operations that the table knows as far as possible."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own deprecations: nothing that a user can act on
        program = _export(module, inputs, dynamic_shapes)
        names = _symbol_names(module, program, inputs, dynamic_shapes)
        return Traced(_lowered(program), names)


def _export(
    module: torch.nn.Module, inputs: tuple[Any, ...], dynamic_shapes: Any
) -> ExportedProgram:
    try:
        with step_by_step():
            return torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:  # whatever the user's own forward raises comes out here
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        path, inner = untraceable(module, error) or ("", module)
        raise MmcError(
            f"torch.export cannot trace {class_name(inner)}: {first}",
            path or type(module).__qualname__,
            "torch.export.export(module, inputs, strict=False) shows the whole message; an "
            "equivalent can take its place: "
            f"mmc.substitutions.register({class_name(inner)!r}, make, declares)",
        ) from error


def _lowered(program: ExportedProgram) -> ExportedProgram:
    """Free of in-place operations, and of unknown ones that torch can spell out."""
    if any(_writes(n.target) or _maps(n.target) for n in operations(program.graph_module)):
        program = _decomposed(program, {})
    if unknown := unknown_operations(program.graph_module):
        # First torch's list for composite operations, then what it would do to core ones.
        known = torch.export.default_decompositions()
        table = {op: known[op] for op in unknown if op in known}
        table = {**get_decompositions([op for op in unknown if op not in table]), **table}
        program = _decomposed(program, table) if table else program
    return program


def _decomposed(program: ExportedProgram, table: dict[Any, Any]) -> ExportedProgram:
    try:
        return program.run_decompositions(table)
    except Exception as error:  # what torch believes cannot happen, too
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MmcError(f"torch cannot spell out its operations: {first}") from error


def _writes(target: Any) -> bool:
    if not isinstance(target, OpOverload) or str(target) in _HARMLESS:
        return False
    return target._schema.is_mutable  # pyright: ignore[reportPrivateUsage]


def _maps(target: Any) -> bool:
    """One of the marks that torch.vmap leaves: they go when torch traces the graph again."""
    return getattr(target, "__module__", None) == "torch._functorch.predispatch"


def _symbol_names(
    module: torch.nn.Module, program: ExportedProgram, inputs: tuple[Any, ...], dynamic_shapes: Any
) -> dict[str, str]:
    """Torch's names of symbols (s23) to those of the `Dim`s that the caller gave."""
    arguments = inspect.signature(module.forward).bind(*inputs).arguments
    if isinstance(dynamic_shapes, dict):
        dynamic_shapes = [dynamic_shapes.get(name) for name in arguments]
    wanted = list(_dims(list(arguments.values()), dynamic_shapes))
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    specs = zip(program.graph_signature.input_specs, placeholders, strict=True)
    traced = [node for spec, node in specs if spec.kind is InputKind.USER_INPUT]
    names: dict[str, str] = {}
    for node, dims in zip(traced, wanted, strict=True):
        for axis, dim in dims.items():
            size = node.meta["val"].shape[axis]
            if isinstance(size, torch.SymInt) and hasattr(dim, "__name__"):
                names.setdefault(str(size.node.expr), dim.__name__)
    return names


def _dims(example: Any, spec: Any) -> Iterator[Mapping[int, Any]]:
    """The named dimensions of each leaf of the inputs, in torch's order of leaves."""
    if isinstance(example, dict):
        parts = [(example[k], None if spec is None else spec.get(k)) for k in example]
    elif isinstance(example, list | tuple):
        parts = list(zip(example, spec or [None] * len(example), strict=True))
    else:
        is_mapping = isinstance(spec, dict)
        yield dict(spec if is_mapping else enumerate(spec)) if spec else {}
        return
    for part, its_spec in parts:
        yield from _dims(part, its_spec)
