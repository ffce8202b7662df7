"""From a traced program to the IR: what its placeholders and outputs stand for."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, InputSpec, OutputKind
from torch.utils import _pytree as pytree

from mmc.errors import MmcError
from mmc.frontends.base import Stored
from mmc.frontends.fx_graph import Walk
from mmc.frontends.operands import cast
from mmc.frontends.torch_types import Sizes, array_of, dtype_of
from mmc.ir.op import Origin, Value, origin
from mmc.ir.ops.source import Constant, Input, Weight
from mmc.ir.tensors import Tensors
from mmc.ir.types import TensorType


@dataclass(frozen=True)
class Traced:
    """A program and the names of its symbols: torch's (s23) to ours (B)."""

    program: ExportedProgram
    symbols: Mapping[str, str]


def translate(
    traced: Traced,
    weights: Mapping[str, Stored],
    layers: Mapping[str, Traced],
    input_names: Sequence[str] | None,
) -> tuple[list[Input], list[Any], Tensors]:
    """The inputs in order, what the program returns, and the tensors that it reads."""
    stored = _Weights(weights)
    own = _Program(traced, stored, layers)
    names = iter(input_names) if input_names is not None else None
    given = own.given(lambda spec, type_: Input(_input_name(spec, names), type_))
    made = [stored.output(value) for value in own.run(given)]
    return [value for value in given if isinstance(value, Input)], made, stored.tensors


def _input_name(spec: InputSpec, names: Iterator[str] | None) -> str:
    return next(names, spec.arg.name) if names else spec.arg.name


class _Weights:
    """One `weight` for each stored tensor, however often a program names it."""

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self.tensors = Tensors()
        self._stored = stored
        self._made: dict[str, Weight] = {}

    def keep(self, known: torch.Tensor, where: Origin) -> Value:
        """A tensor that torch has computed: one number, or stored beside the weights."""
        dtype = dtype_of(known.dtype)
        if known.numel() and bool((known == known.flatten()[0]).all()):
            return Constant(known.flatten()[0].item(), TensorType(dtype, tuple(known.shape)))
        content = array_of(known)
        return self.tensors.add(f"{where.path}.constant", TensorType(dtype, content.shape), content)

    def output(self, value: Any) -> Any:
        """A number that is returned lies in memory like any other output."""
        if not isinstance(value, Constant) or not all(isinstance(d, int) for d in value.type.shape):
            return value
        return self.tensors.add("constant", value.type, value.reference())

    def known(self, program: ExportedProgram, target: str, path: str) -> torch.Tensor | None:
        """A tensor that torch may compute with: a lifted number, positions, a mask."""
        content = _content(program, target)
        if content.is_meta or _join(path, target) in self._stored:
            return None
        lifted = content.dim() == 0 and target not in program.state_dict
        return content if lifted or content.dtype in (torch.int64, torch.bool) else None

    def read(self, program: ExportedProgram, target: str, path: str, traced: torch.Tensor) -> Value:
        """The tensor in the element type that was traced; it is stored as it is."""
        name = _join(path, target)
        stored = self._stored.get(name) or stored_tensor(name, _content(program, target))
        if stored.name not in self._made:
            weight = self.tensors.add(stored.name, stored.type, stored.load)
            self._made[stored.name] = weight
        return cast(self._made[stored.name], dtype_of(traced.dtype))


def _join(path: str, name: str) -> str:
    return ".".join(filter(None, (path, name)))


def stored_tensor(name: str, content: torch.Tensor) -> Stored:
    """A tensor in memory as one of a checkpoint."""

    def load() -> np.ndarray:
        if content.is_meta:
            raise MmcError(f"tensor {name!r} is on the meta device: it has no values")
        return array_of(content)

    return Stored(name, TensorType(dtype_of(content.dtype), tuple(content.shape)), load)


def _content(program: ExportedProgram, target: str) -> torch.Tensor:
    held = program.state_dict if target in program.state_dict else program.constants
    content = held[target]
    assert isinstance(content, torch.Tensor), "only tensors have a placeholder of their own"
    return content


class _Program:
    """One traced program; `path` leads to it from the model where it is a layer of one."""

    def __init__(
        self, traced: Traced, weights: _Weights, layers: Mapping[str, Traced], path: str = ""
    ) -> None:
        self._program, self._sizes = traced.program, Sizes(traced.symbols)
        self._weights, self._layers, self._path = weights, layers, path

    def given(self, user_input: Callable[[InputSpec, TensorType], Value]) -> list[Any]:
        """What each placeholder stands for: an input, a stored tensor, or a plain number."""
        specs = self._program.graph_signature.input_specs
        nodes = [n for n in self._program.graph.nodes if n.op == "placeholder"]
        pairs = zip(specs, nodes, strict=True)
        return [self._one(spec, node.meta.get("val"), user_input) for spec, node in pairs]

    def run(self, given: Sequence[Any]) -> list[Any]:
        module, keep = self._program.graph_module, self._weights.keep
        return Walk(module, self._sizes, path=self._path, layer=self._layer, keep=keep).run(given)

    def _layer(self, path: str, through: list[Value], given: list[Value]) -> list[Value]:
        """Stands for `torch.ops.mmc.layer`: the layer's own program in its place."""
        if path not in self._layers:
            raise MmcError(f"layer {path!r} has no trace of its own")
        program = _Program(self._layers[path], self._weights, self._layers, path)
        operands = iter([through[0], *given, *through[1:]])
        return program.run(program.given(lambda spec, type_: next(operands)))

    def _one(
        self, spec: InputSpec, traced: Any, user_input: Callable[[InputSpec, TensorType], Value]
    ) -> Any:
        if isinstance(spec.arg, ConstantArgument) or not isinstance(traced, torch.Tensor):
            return traced
        if spec.kind is InputKind.USER_INPUT:
            return user_input(spec, self._sizes.tensor(traced))
        target = str(spec.target)
        module = _join(self._path, target.rpartition(".")[0])
        with origin(Origin(module or "main")):
            if target in self._program.graph_signature.buffers_to_mutate.values():
                return self._buffer_state(target, traced)
            known = self._weights.known(self._program, target, self._path)
            if known is not None:
                return known
            return self._weights.read(self._program, target, self._path, traced)

    def _buffer_state(self, target: str, traced: torch.Tensor) -> Input:
        """A buffer that forward writes to is a state; states start from zero."""
        content = _content(self._program, target)
        if not content.is_meta and bool(content.any()):
            raise MmcError(
                f"buffer {target!r} is written by forward and does not start from zero",
                hint="pass it as an argument and return it",
            )
        return Input(target, self._sizes.tensor(traced))


def named_outputs(
    program: ExportedProgram, made: list[Any], inputs: list[Input], names: Sequence[str] | None
) -> dict[str, Value]:
    """What forward returns, and the inputs and buffers that it writes to, by name."""
    signature = program.graph_signature
    specs = signature.output_specs
    user = [v for s, v in zip(specs, made, strict=True) if s.kind is OutputKind.USER_OUTPUT]
    outputs = dict(zip(names or _output_names(program, len(user)), user, strict=True))
    outputs = {name: value for name, value in outputs.items() if value is not None}
    by_placeholder = dict(zip(signature.user_inputs, inputs, strict=False))
    for spec, value in zip(specs, made, strict=True):
        if spec.kind is OutputKind.BUFFER_MUTATION:
            outputs[str(spec.target)] = value
        elif spec.kind is OutputKind.USER_INPUT_MUTATION:
            outputs[by_placeholder[str(spec.target)].name] = value
    if odd := [name for name, value in outputs.items() if not isinstance(value, Value)]:
        raise MmcError(f"output {odd[0]!r} is not a tensor", hint="return tensors only")
    return outputs


def _output_names(program: ExportedProgram, count: int) -> list[str]:
    """Output, or a dictionary's keys, or out0, out1, ..."""
    if count == 1:
        return ["output"]
    spec = program.call_spec.out_spec
    if spec is None or spec.num_leaves != count or spec.type is not dict:
        return [f"out{i}" for i in range(count)]
    leaves, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(count)), spec))
    return [re.sub(r"[^\w.]", "_", ".".join(map(_key, path))) for path, _ in leaves]


def _key(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", key)))
