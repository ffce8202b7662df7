"""Import a PyTorch module: trace it with torch.export, then translate operation by operation.

Tracing is non-strict and keeps composite operations (linear, silu, rms_norm) whole.  Torch's own
decompositions are asked only for what writes in place or what the table does not know: retracing
costs more than the first trace.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch._decomp import get_decompositions
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind
from torch.utils import _pytree as pytree

from mmc.errors import MmcError
from mmc.frontends.aten_call import cast
from mmc.frontends.base import Imported, Stored
from mmc.frontends.fx_graph import Walk, operations, unknown_operations
from mmc.frontends.torch_types import Sizes, array_of, dtype_of
from mmc.ir.graph import graph_of
from mmc.ir.op import Origin, Value, origin
from mmc.ir.ops.source import Constant, Input, Weight
from mmc.ir.tensors import Tensors
from mmc.ir.types import TensorType

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
) -> Imported:
    """The module as a graph, its parameters as tensors.

    example_inputs: positional arguments of `forward`; a dynamic dimension needs a size above 1.
    dynamic_shapes: as for torch.export; `Dim("B")` becomes the symbol B.
    input_names, output_names: for the tensors in order; a name in both makes a state.
    weights: where the parameters' values lie; by default in the module itself.
    Raises MmcError where torch cannot trace the module or an operation has no translation.
    """
    source = (
        "an exported program" if isinstance(module, ExportedProgram) else type(module).__qualname__
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own deprecations: nothing that a user can act on
        names = {}
        if isinstance(module, ExportedProgram):
            program = module
        else:
            program = _export(module, example_inputs, dynamic_shapes)
            names = _symbol_names(module, program, example_inputs, dynamic_shapes)
        program = _lowered(program)
    importer = _Importer(program, Sizes(names), weights or {})
    return importer.run(name, source, input_names, output_names)


def _export(
    module: torch.nn.Module, inputs: tuple[Any, ...], dynamic_shapes: Any
) -> ExportedProgram:
    try:
        return torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:  # whatever the user's own forward raises comes out here
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MmcError(
            f"torch.export cannot trace the module: {first}",
            type(module).__qualname__,
            "torch.export.export(module, inputs, strict=False) shows the whole message",
        ) from error


def _lowered(program: ExportedProgram) -> ExportedProgram:
    """Free of in-place operations, and of unknown ones that torch can spell out."""
    if any(_writes(node.target) for node in operations(program.graph_module)):
        program = program.run_decompositions({})
    if unknown := unknown_operations(program.graph_module):
        # First torch's list for composite operations, then what it would do to core ones.
        known = torch.export.default_decompositions()
        table = {op: known[op] for op in unknown if op in known}
        table = {**get_decompositions([op for op in unknown if op not in table]), **table}
        program = program.run_decompositions(table) if table else program
    return program


def _writes(target: Any) -> bool:
    mutable = isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable
    return mutable and str(target) not in _HARMLESS


def _symbol_names(
    module: torch.nn.Module, program: ExportedProgram, inputs: tuple[Any, ...], dynamic_shapes: Any
) -> dict[str, str]:
    """Torch's names of symbols (s23) to those of the `Dim`s that the caller gave."""
    arguments = inspect.signature(module.forward).bind(*inputs).arguments
    if isinstance(dynamic_shapes, dict):
        dynamic_shapes = [dynamic_shapes.get(name) for name in arguments]
    wanted = list(_dims(list(arguments.values()), dynamic_shapes))
    user = set(program.graph_signature.user_inputs)
    traced = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in user]
    names: dict[str, str] = {}
    for node, dims in zip(traced, wanted, strict=False):
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


class _Importer:
    """Placeholders to inputs, weights and constants; then the walk; then names for the outputs."""

    def __init__(
        self, program: ExportedProgram, sizes: Sizes, weights: Mapping[str, Stored]
    ) -> None:
        self._program, self._sizes, self._stored = program, sizes, weights
        self._tensors = Tensors()
        self._weights: dict[str, Weight] = {}

    def run(
        self,
        name: str,
        source: str,
        input_names: Sequence[str] | None,
        output_names: Sequence[str] | None,
    ) -> Imported:
        specs = self._program.graph_signature.input_specs
        nodes = [n for n in self._program.graph.nodes if n.op == "placeholder"]
        names = iter(input_names) if input_names is not None else None
        given = [
            self._given(s, n.meta.get("val"), names) for s, n in zip(specs, nodes, strict=True)
        ]
        made = Walk(self._program.graph_module, self._sizes).run(given)
        inputs = [value for value in given if isinstance(value, Input)]
        graph = graph_of(name, self._outputs(made, inputs, output_names), inputs)
        return Imported(graph, self._tensors, "module", source)

    def _given(self, spec: InputSpec, traced: Any, names: Iterator[str] | None) -> Any:
        """What a placeholder stands for: an input, a stored tensor, or a plain number."""
        if isinstance(spec.arg, ConstantArgument) or not isinstance(traced, torch.Tensor):
            return traced
        if spec.kind is InputKind.USER_INPUT:
            name = next(names, spec.arg.name) if names else spec.arg.name
            return Input(name, self._sizes.tensor(traced))
        target = str(spec.target)
        with origin(Origin(target.rpartition(".")[0])):
            if target in self._program.graph_signature.buffers_to_mutate.values():
                return self._buffer_state(target, traced)
            return self._weight(target, traced)

    def _buffer_state(self, target: str, traced: torch.Tensor) -> Input:
        """A buffer that forward writes to is a state; states start from zero."""
        content = self._content(target)
        if not content.is_meta and bool(content.any()):
            raise MmcError(
                f"buffer {target!r} is written by forward and does not start from zero",
                hint="pass it as an argument and return it",
            )
        return Input(target, self._sizes.tensor(traced))

    def _weight(self, target: str, traced: torch.Tensor) -> Value:
        stored = self._stored.get(target) or self._in_module(target)
        if isinstance(stored, Constant):
            return stored
        if stored.name not in self._weights:
            weight = self._tensors.add(stored.name, stored.type, stored.load)
            self._weights[stored.name] = weight
        return cast(self._weights[stored.name], dtype_of(traced.dtype))

    def _content(self, target: str) -> torch.Tensor:
        program = self._program
        return (
            program.state_dict[target]
            if target in program.state_dict
            else program.constants[target]
        )

    def _in_module(self, target: str) -> Stored | Constant:
        content = self._content(target)
        declared = TensorType(dtype_of(content.dtype), tuple(content.shape))
        if content.dim() == 0 and not content.is_meta and target not in self._program.state_dict:
            return Constant(content.item(), declared)

        def load() -> np.ndarray:
            if content.is_meta:
                raise MmcError(f"tensor {target!r} is on the meta device: it has no values")
            return array_of(content)

        return Stored(target, declared, load)

    def _outputs(
        self, made: list[Any], inputs: list[Input], names: Sequence[str] | None
    ) -> dict[str, Value]:
        specs = self._program.graph_signature.output_specs
        user = [v for s, v in zip(specs, made, strict=True) if s.kind is OutputKind.USER_OUTPUT]
        outputs = dict(zip(names or self._output_names(len(user)), user, strict=True))
        outputs = {name: value for name, value in outputs.items() if value is not None}
        by_placeholder = dict(zip(self._program.graph_signature.user_inputs, inputs, strict=False))
        for spec, value in zip(specs, made, strict=True):
            if spec.kind is OutputKind.BUFFER_MUTATION:
                outputs[str(spec.target)] = value
            elif spec.kind is OutputKind.USER_INPUT_MUTATION:
                outputs[by_placeholder[str(spec.target)].name] = value
        if odd := [name for name, value in outputs.items() if not isinstance(value, Value)]:
            raise MmcError(f"output {odd[0]!r} is not a tensor", hint="return tensors only")
        return outputs

    def _output_names(self, count: int) -> list[str]:
        """output, or a dictionary's keys, or out0, out1, ..."""
        if count == 1:
            return ["output"]
        spec = self._program.call_spec.out_spec
        if spec is None or spec.num_leaves != count or spec.type is not dict:
            return [f"out{i}" for i in range(count)]
        leaves, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(count)), spec))
        return [re.sub(r"[^\w.]", "_", ".".join(map(_key, path))) for path, _ in leaves]


def _key(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", key)))
