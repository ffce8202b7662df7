"""Nats per token of a trainable model, as `mmc eval` measures a compiled one."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import torch
from torch import Tensor, nn

from mmc.convert.processes import ALONE, Processes
from mmc.nn.language_model import LanguageModel


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # what is compiled for training has other shapes there
def nats_per_token(
    model: LanguageModel, ids: Tensor, window: int, batch: int, processes: Processes = ALONE
) -> float:
    """The mean negative log-likelihood of ids i64[N], in float32.

    Windows do not overlap, each starts from an empty state, and all but its first token are
    predicted; `batch` of them at a time.  The processes take batches in turn.
    """
    model.eval()
    size = len(ids) // window * window
    parts = [*ids[:size].unflatten(0, (-1, window)).split(batch)] if size else []
    if len(ids) - size >= 2:
        parts.append(ids[None, size:])
    found = torch.zeros(2, dtype=torch.float64, device=ids.device)
    for first in range(processes.rank, len(parts) + processes.rank, processes.count):
        # A model of which each has a part runs in all processes or in none.
        part = parts[min(first, len(parts) - 1)]
        logits = model(part)[:, :-1].float()
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"
        )
        if first < len(parts):
            found[0] += loss
            found[1] += part[:, 1:].numel()
    total, count = processes.sum(found).tolist()
    return total / count
