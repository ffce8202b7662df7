"""A backend of torch.compile: `torch.compile(model, backend="mmc")`, found by its entry point.

TorchDynamo cuts a model into graphs at what it cannot trace.  Each graph is compiled for each set
of sizes that it is called with; where that cannot be done it runs in torch as before.  `parts` says
what became of each.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmc.errors import MmcError

MOST_SIZES = 8
"""Sets of sizes that a graph is compiled for; further ones run in torch."""


@dataclass
class Part:
    """One graph of TorchDynamo.

    operations: how many it has.  compiled: how often it was compiled.  calls, and how many of them
    ran in torch; reasons: why, each with the number of calls.
    """

    operations: int
    compiled: int = 0
    calls: int = 0
    in_torch: int = 0
    reasons: dict[str, int] = field(default_factory=dict[str, int])

    def left_to_torch(self, reason: str) -> None:
        self.in_torch += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


_parts: list[Part] = []


def parts() -> tuple[Part, ...]:
    """The graphs that torch.compile has handed over since `reset`."""
    return tuple(_parts)


def reset() -> None:
    """Forget what was counted; torch._dynamo.reset() forgets what was compiled."""
    _parts.clear()


def backend(
    graph: Any, inputs: Any, options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """What torch.compile calls for each graph.

    options: those of `mmc.compile` by name, such as {"target": "cuda"}.
    """
    given = dict(options or {})
    if strange := given.keys() - {"target", "weights", "mcpu", "no_fallback"}:
        raise MmcError(f"knows no option {min(strange)!r}", "torch.compile(backend='mmc')")
    return _Backend(graph, given)


class _Backend:
    """A graph, and by sizes the values of its parameters and what was compiled with them."""

    def __init__(self, graph: Any, options: Mapping[str, Any]) -> None:
        self.graph, self.options = graph, options
        self.part = Part(sum(node.op.startswith("call") for node in graph.graph.nodes))
        _parts.append(self.part)
        self._made: dict[Any, tuple[Any, Callable[..., Any] | str]] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="mmc-dynamo-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def __call__(self, *inputs: Any) -> Any:
        from mmc.frontends.dynamo import sizes, values, wants_gradients

        self.part.calls += 1
        if wants_gradients(inputs):
            return self._in_torch("gradients are wanted: call it under torch.no_grad()", inputs)
        key, now = sizes(inputs), values(inputs)
        if key not in self._made and len(self._made) == MOST_SIZES:
            return self._in_torch(f"more than {MOST_SIZES} sets of sizes", inputs)
        then, made = self._made.get(key, (None, ""))
        if then != now:
            made = self._compiled(inputs)
            self._made[key] = now, made
        return self._in_torch(made, inputs) if isinstance(made, str) else made(*inputs)

    def _in_torch(self, reason: str, inputs: Any) -> Any:
        self.part.left_to_torch(reason)
        return self.graph(*inputs)

    def _compiled(self, inputs: Any) -> Callable[..., Any] | str:
        """What runs the graph on such inputs, or why nothing does."""
        import mmc
        from mmc.frontends.dynamo import Part as Captured

        captured = Captured(self.graph, inputs)
        folder = self._folder / str(self.part.compiled)
        try:
            artifact = mmc.compile(captured, captured.varying(inputs), out=folder, **self.options)
            module: Any = mmc.load(artifact.path)
        except MmcError as error:
            return str(error)
        self.part.compiled += 1

        def run(*inputs: Any) -> tuple[Any, ...]:
            made = module(*captured.varying(inputs))
            return (made,) if hasattr(made, "shape") else made

        return run
