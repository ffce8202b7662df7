"""Nats per token of a trainable model, as `mmc eval` measures a compiled one."""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

import torch
from torch import Tensor, nn

from mmc.nn.language_model import LanguageModel


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # what is compiled for training has other shapes there
def nats_per_token(model: LanguageModel, ids: Tensor, window: int, batch: int) -> float:
    """The mean negative log-likelihood of ids i64[N], in float32.

    Windows do not overlap, each starts from an empty state, and all but its first token are
    predicted; `batch` of them at a time.
    """
    model.eval()
    whole = len(ids) // window * window
    parts = [*ids[:whole].unflatten(0, (-1, window)).split(batch)] if whole else []
    if len(ids) - whole >= 2:
        parts.append(ids[None, whole:])
    total = torch.zeros((), dtype=torch.float64, device=ids.device)
    count = 0
    for part in parts:
        logits = model(part)[:, :-1].float()
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"
        )
        total += losses
        count += part[:, 1:].numel()
    return total.item() / count
