"""What recurrent models share: memory over time, and which positions are padding."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan_op


def _step(h: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Carry and slices, as torch's scan passes them; it wants results that share no memory."""
    h = a * h + b
    return h, h.clone()


def recurrence(h: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The last and every h[:, t] = a[:, t] * h[:, t-1] + b[:, t]; a, b [B, T, ...], h [B, ...]."""
    last, hs = scan_op(_step, [h], [a.movedim(1, 0), b.movedim(1, 0)], ())
    return last, hs.movedim(0, 1)


def within(ids: Tensor, lengths: Tensor) -> Tensor:
    """Which of the positions [B, T, 1] are not padding."""
    positions = torch.arange(ids.shape[1], device=ids.device)
    return (positions < lengths.unsqueeze(1)).unsqueeze(2)
