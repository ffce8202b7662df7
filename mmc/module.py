"""Run a compiled module."""

from __future__ import annotations

from typing import Any

from mmc.arrays import as_input, like, streaming
from mmc.artifact import Artifact
from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.targets.base import Executable


class Module:
    """A compiled module: call it with arrays in the order in which it was traced."""

    def __init__(self, artifact: Artifact, executable: Executable) -> None:
        self.artifact, self._executable = artifact, executable
        self._graph: Graph = artifact.graph()

    def __call__(self, *inputs: Any) -> Any:
        """The output, or a tuple of the outputs; numpy or torch in, the same kind out."""
        names = [op.name for op in self._graph.inputs]
        if len(inputs) != len(names):
            raise MmcError(f"takes {len(names)} inputs ({', '.join(names)}), given {len(inputs)}")
        with streaming(self._executable, *inputs):
            arrays = {
                op.name: as_input(op, x, self._executable)
                for op, x in zip(self._graph.inputs, inputs, strict=True)
            }
            made = self._executable.run("forward", arrays)
        outputs = tuple(like(inputs[0], array) if inputs else array for array in made.values())
        return outputs[0] if len(outputs) == 1 else outputs
