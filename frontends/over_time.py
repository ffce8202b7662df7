"""From a step of a recurrent model to whole sequences: write the step, compile the sequence.

The step stays a region of its own (torch's scan).  The compiler takes it apart: what does not wait
for the step before is computed for all steps at once, and a state is a linear recurrence if algebra
says so.  One compiled module then takes a prompt or a single step.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

ROW_MAJOR = torch.contiguous_format
"""torch's scan wants results with memory of their own, laid out as what went in."""


class OverTime(nn.Module):
    """(x [B, T, ...], *states [B, ...]) -> (y [B, T, ...], *last states)."""

    def __init__(self, step: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        def combine(before: list[Tensor], now: Tensor) -> tuple[list[Tensor], Tensor]:
            y, *after = (each.clone(memory_format=ROW_MAJOR) for each in self.step(now, *before))
            return after, y

        last, ys = scan(combine, list(states), x, dim=1)
        return ys, *last


def over_time(step: Callable[..., tuple[Tensor, ...]]) -> OverTime:
    """A module over sequences of a step (x [B, ...], *states) -> (y, *new states).

    `mmc.compile(mmc.over_time(step), (x, *states))` compiles it; x then has a time axis behind the
    batch.
    """
    return OverTime(step)
