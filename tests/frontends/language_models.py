"""What the interpreter makes of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmc.driver import Compilation
from mmc.frontends.models.causal_lm import import_causal_lm
from mmc.frontends.torch_types import array_of
from mmc.ir.evaluate import evaluate
from mmc.ir.text import parse, render


def logits(done: Compilation, ids: np.ndarray) -> np.ndarray:
    """Of all positions, from an empty state."""
    given: dict[str, np.ndarray] = {"ids": ids, "lengths": np.full(len(ids), ids.shape[1])}
    for op in done.core.inputs[2:]:
        shape = tuple(d if isinstance(d, int) else len(ids) for d in op.type.shape)
        given[op.name] = np.zeros(shape, op.type.dtype.numpy)
    return evaluate(done.core, given, done.imported.tensors)["logits"]


def graph_is_the_module(
    module: Any, ids: Tensor, lengths: Tensor, states: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """Compare the graph of a `CausalLm` with the module; what the module makes."""
    imported = import_causal_lm(module)
    assert parse(render(imported.graph)) is imported.graph
    with torch.no_grad():
        wanted = module(ids, lengths, *states.values())
    inputs = {"ids": ids, "lengths": lengths, **states}
    given = {name: array_of(tensor) for name, tensor in inputs.items()}
    found = evaluate(imported.graph, given, imported.tensors)
    assert list(found) == ["logits", *states]
    for (name, mine), theirs in zip(found.items(), wanted, strict=True):
        np.testing.assert_allclose(mine, array_of(theirs), 1e-4, 1e-4, err_msg=name)
    return wanted
