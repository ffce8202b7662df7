"""What torch.compile hands to a backend, as a module whose parameters are its own.

TorchDynamo makes inputs of parameters, buffers and sizes.  A compiler wants to know their values:
they become attributes, and only tensors that differ from call to call stay inputs.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule

_STATIC = "_dynamo_static_input_type"
"""TorchDynamo's mark of a tensor that belongs to a module."""


class Part(torch.nn.Module):
    """A graph of TorchDynamo for inputs of the given sizes.

    fixed: by position, what is no input any more: parameters and buffers of the user's module,
    and numbers.
    """

    def __init__(self, graph: GraphModule, inputs: Sequence[Any]) -> None:
        super().__init__()
        self.graph_module = graph
        self.fixed = {i: x for i, x in enumerate(inputs) if _is_fixed(x)}
        for i, x in self.fixed.items():
            if isinstance(x, torch.Tensor):
                self.register_buffer(f"fixed_{i}", x.detach(), persistent=False)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """The outputs of the graph, a tuple."""
        rest = iter(inputs)
        count = len(inputs) + len(self.fixed)
        given = [self._fixed(i) if i in self.fixed else next(rest) for i in range(count)]
        return self.graph_module(*given)

    def _fixed(self, position: int) -> Any:
        x = self.fixed[position]
        return getattr(self, f"fixed_{position}") if isinstance(x, torch.Tensor) else x

    def varying(self, inputs: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """Those of a call's inputs that `forward` takes."""
        return tuple(x for i, x in enumerate(inputs) if i not in self.fixed)


def _is_fixed(x: Any) -> bool:
    if not isinstance(x, torch.Tensor):
        return True
    return isinstance(x, torch.nn.Parameter) or getattr(x, _STATIC, None) is not None


def sizes(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Shapes, types and numbers: what a graph is compiled for."""
    return tuple(
        (tuple(x.shape), x.dtype, x.device) if isinstance(x, torch.Tensor) else x for x in inputs
    )


def values(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Something else whenever a parameter or buffer was written to."""
    fixed = (x for x in inputs if isinstance(x, torch.Tensor) and _is_fixed(x))
    return tuple((x.data_ptr(), x._version) for x in fixed)


def wants_gradients(inputs: Sequence[Any]) -> bool:
    """Whether somebody may ask for gradients, which compiled code has not."""
    return torch.is_grad_enabled() and any(
        isinstance(x, torch.Tensor) and x.requires_grad for x in inputs
    )
