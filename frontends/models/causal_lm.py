"""Trace a causal language model of ours: layers that are alike are traced once.

Torch needs milliseconds for an operation.  So the model is traced with a `LayerCall` in the place
of each layer, and each kind of layer by itself.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.export import Dim

import mmc.frontends.models.operators  # noqa: F401  # pyright: ignore[reportUnusedImport]
from mmc.frontends.base import Imported, Stored
from mmc.frontends.fx_import import Traced, stored_tensor
from mmc.frontends.torch_export import import_module, trace

B, T = Dim("B", min=1, max=1 << 16), Dim("T", min=1, max=1 << 20)
BATCH, TIME = 3, 5
"""The sizes to trace with occur nowhere else: torch must not take two for one."""


@dataclass(frozen=True)
class Given:
    """An example of what a layer reads besides x and its states, and which axes are symbols."""

    example: Tensor
    axes: dict[int, Any] | None = None


class CausalLm(Protocol):
    """(ids i64[B, T], lengths i64[B], *states) -> (logits f32[B, T, V], *new states).

    The layers are the first ModuleList in it.
    """

    @property
    def hidden_size(self) -> int: ...

    @property
    def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name to shape, without the batch; those of a layer begin with its path and a dot."""
        ...

    @property
    def state_types(self) -> Mapping[str, torch.dtype]:
        """The element types of states that are not float32."""
        ...

    def given(self, layer: int) -> Sequence[Given | None]:
        """What the layer takes between x and its states; None where it takes nothing there."""
        ...


class LayerCall(nn.Module):
    """In the place of a layer whose trace is taken by itself."""

    def __init__(self, path: str, states: int) -> None:
        super().__init__()
        self.path, self.states = path, states

    def forward(self, x: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
        first = len(rest) - self.states
        states = [state for state in rest[first:] if state is not None]
        given = [each for each in rest[:first] if each is not None]
        return tuple(torch.ops.mmc.layer([x, *states], given, self.path))


def import_causal_lm(module: Any, weights: Mapping[str, Stored] | None = None) -> Imported:
    """Symbols B and T; states keep their names on both sides.  weights: by default the module's.

    module: a `CausalLm` that is an nn.Module.
    """
    if weights is None:
        state = module.state_dict(keep_vars=True)
        weights = {name: stored_tensor(name, tensor) for name, tensor in state.items()}
    example = Example(module)
    parts = module.named_modules()
    path, layers = next((path, part) for path, part in parts if isinstance(part, nn.ModuleList))
    traces = dict(example.trace_layers(path, layers))
    calls = (LayerCall(path, len(example.names_of(path))) for path in traces)
    module.set_submodule(path, nn.ModuleList(calls))
    names = tuple(module.state_shapes)
    try:
        return import_module(
            module,
            (example.ids, example.lengths, *map(example.state, names)),
            ({0: B, 1: T}, {0: B}, ({0: B},) * len(names)),
            input_names=("ids", "lengths", *names),
            output_names=("logits", *names),
            weights=weights,
            layers=traces,
        )
    finally:
        module.set_submodule(path, layers)


class Example:
    """Tensors to trace a module with."""

    def __init__(self, module: Any) -> None:
        self._module: CausalLm = module
        self._device = next(module.parameters()).device
        self.ids = torch.zeros((BATCH, TIME), dtype=torch.int64, device=self._device)
        self.lengths = torch.ones((BATCH,), dtype=torch.int64, device=self._device)

    def state(self, name: str) -> Tensor:
        shape = (BATCH, *self._module.state_shapes[name])
        dtype = self._module.state_types.get(name, torch.float32)
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def names_of(self, path: str) -> list[str]:
        """The states of a layer."""
        return [name for name in self._module.state_shapes if name.startswith(f"{path}.")]

    def trace_layers(self, path: str, layers: nn.ModuleList) -> Iterator[tuple[str, Traced]]:
        """The path and the trace of each layer."""
        made: dict[object, Traced] = {}
        for n, layer in enumerate(layers):
            given = self._module.given(n)
            parts = [(k, t.dtype, t.shape) for k, t in layer.state_dict(keep_vars=True).items()]
            key = (*(each is None for each in given), repr(layer), *parts)
            if key not in made:
                made[key] = self._trace_layer(layer, f"{path}.{n}", given)
            yield f"{path}.{n}", made[key]

    def _trace_layer(self, layer: nn.Module, path: str, given: Sequence[Given | None]) -> Traced:
        x = torch.zeros((BATCH, TIME, self._module.hidden_size), device=self._device)
        # Each a tensor of its own: torch takes one that is passed twice for one input.
        examples = [g if g is None else g.example.to(self._device).clone() for g in given]
        axes = [g if g is None else g.axes for g in given]
        states = [self.state(name) for name in self.names_of(path)]
        shapes = ({0: B, 1: T}, *axes, ({0: B},) * len(states))
        return trace(layer, (x, *examples, *states), shapes)
