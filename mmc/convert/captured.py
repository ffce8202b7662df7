"""A training step as one CUDA graph: what takes a thousand launches is launched at once."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_STEPS = 3
"""Before the recording: kernels are compiled and chosen, and the optimizer's state is made."""

Step = Callable[[], tuple[Tensor, Tensor]]


class Captured:
    """`step`, whose kernels are recorded after some calls and only replayed from then on.

    It must read and write the same memory in each call, and never wait for the GPU; the tensors
    that it returns hold the newest results.
    """

    def __init__(self, step: Step) -> None:
        self._step, self._calls = step, 0
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream()

    def forget(self) -> None:
        """Give back what was recorded, and its memory."""
        self._graph.reset()

    def __call__(self) -> tuple[Tensor, Tensor]:
        self._calls += 1
        if self._calls <= WARM_STEPS:
            return self._warm()
        if self._calls == WARM_STEPS + 1:
            # Other threads may do as they like: NCCL's watchdog looks at its events.
            with torch.cuda.graph(
                self._graph, stream=self._stream, capture_error_mode="thread_local"
            ):
                self._results = self._step()
        self._graph.replay()
        return self._results

    def _warm(self) -> tuple[Tensor, Tensor]:
        """Not on the default stream, which cannot be recorded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            results = self._step()
        torch.cuda.current_stream().wait_stream(self._stream)
        return results
