"""What a frontend hands over: a graph, its tensors, and what a driver must know about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mmc.frontends.substitute import Substituted
from mmc.ir.graph import Graph
from mmc.ir.tensors import Tensors
from mmc.ir.types import TensorType

Kind = Literal["causal_lm", "module"]


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint: its name and type there, and how to read it."""

    name: str
    type: TensorType
    load: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Imported:
    """A model in the IR.

    kind: "causal_lm" takes (ids i64[B, T], lengths i64[B], states) and returns logits f32[B, T, V]
        and the states; "module" takes and returns whatever was traced.
    config: the model's own configuration, as found.
    tokenizer: gives the content of a tokenizer.json, where there is one.
    source: the file, folder or class that it comes from.
    context: how many positions the caches hold; None where the state does not grow.
    substituted: modules that were replaced by traceable equivalents.
    positive: states that only ever hold positive numbers, and are divided by.
    """

    graph: Graph
    tensors: Tensors
    kind: Kind
    source: str
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    tokenizer: Callable[[], bytes] | None = None
    vocab_size: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    max_positions: int | None = None
    context: int | None = None
    substituted: tuple[Substituted, ...] = ()
    positive: frozenset[str] = frozenset()
