"""How much each layer of a Transformer means for a text: what to convert, and what to keep.

One part of one layer is changed at a time, nothing is trained, and the loss is measured.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmc.convert.evaluation import nats_per_token
from mmc.convert.rewrite import rounded
from mmc.convert.source import read_source
from mmc.convert.text import read_text
from mmc.convert.training import Tell, silent

WINDOW, BATCH = 512, 8


@dataclass(frozen=True)
class LayerSensitivity:
    """Nats per token that are lost where this layer's attention or MLP is made ternary.

    attention_removed: where attention adds nothing any more; the more, the sooner to be kept.
    """

    layer: int
    attention_rounded: float
    mlp_rounded: float
    attention_removed: float


@dataclass(frozen=True)
class Sensitivity:
    """nats_per_token: of the model as it is.  tokens: that were read."""

    nats_per_token: float
    tokens: int
    layers: list[LayerSensitivity]

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """The table; the layers whose attention means most stand first."""
        lines = [
            f"{self.nats_per_token:.4f} nats per token of {self.tokens} tokens; more where",
            f"{'layer':>5}{'attention removed':>20}{'attention rounded':>20}{'MLP rounded':>14}",
        ]
        for row in sorted(self.layers, key=lambda row: -row.attention_removed):
            lines.append(
                f"{row.layer:5}{row.attention_removed:+20.4f}{row.attention_rounded:+20.4f}"
                f"{row.mlp_rounded:+14.4f}"
            )
        return "\n".join(lines)


class Nothing(nn.Module):
    """In the place of attention."""

    def forward(self, x: Tensor, rotation: object) -> Tensor:
        return torch.zeros_like(x)


def sensitivity(path: Path, text: Path, tokens: int, tell: Tell = silent) -> Sensitivity:
    """Measure with the first tokens of a text; a pass over them for each number."""
    source = read_source(path)
    whole = read_text([text], text, source.tokenizer(), 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ids = torch.from_numpy(whole.held_out[:tokens]).to(device).long()
    model: Any = source.teacher().to(device)
    ternary: Any = rounded(model).to(device)
    plain = nats_per_token(model, ids, WINDOW, BATCH)
    found: list[LayerSensitivity] = []

    def lost(n: int, part: str, other: nn.Module) -> float:
        with _in_place(model.model.layers[n], part, other):
            return nats_per_token(model, ids, WINDOW, BATCH) - plain

    for n, layer in enumerate(ternary.model.layers):
        tell("sensitivity", n / len(ternary.model.layers))
        attention = lost(n, "self_attn", layer.self_attn)
        mlp, removed = lost(n, "mlp", layer.mlp), lost(n, "self_attn", Nothing())
        found.append(LayerSensitivity(n, attention, mlp, removed))
    return Sensitivity(plain, len(ids), found)


@contextmanager
def _in_place(layer: nn.Module, part: str, other: nn.Module) -> Generator[None]:
    own = getattr(layer, part)
    setattr(layer, part, other)
    try:
        yield
    finally:
        setattr(layer, part, own)
