"""Mamba and RWKV-4: the graph against the module, and weights that no exp can hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmc.frontends.models.mamba import MambaConfig, MambaForCausalLM
from mmc.frontends.models.rwkv import RwkvConfig, RwkvForCausalLM, weighted_mean
from tests.frontends.language_models import graph_is_the_module

TINY = {"vocab_size": 17, "hidden_size": 12, "num_hidden_layers": 2}
MAMBA = MambaConfig.parse({**TINY, "state_size": 3})
RWKV = RwkvConfig.parse({**TINY, "rescale_every": 1})


@pytest.mark.parametrize("module", [MambaForCausalLM(MAMBA), RwkvForCausalLM(RWKV)], ids=type)
def test_graph_is_the_module(module: MambaForCausalLM | RwkvForCausalLM) -> None:
    """With a past, and prompts of different lengths."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.eval().parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))
    states = {name: torch.rand(2, *shape) for name, shape in module.state_shapes.items()}
    ids, lengths = torch.randint(0, 17, (2, 5)), torch.tensor([5, 3])
    wanted = graph_is_the_module(module, ids, lengths, states)
    with torch.no_grad():
        alone = module(ids[1:, :3], lengths[1:], *(state[1:] for state in states.values()))
    for padded, state in zip(wanted[1:], alone[1:], strict=True):
        torch.testing.assert_close(padded[1:], state)


def exact_mean(k: Tensor, v: Tensor, decay: Tensor, first: Tensor) -> Tensor:
    """The formula of the paper, equation 16, with sums of logarithms; k, v [T, D]."""
    steps = range(len(k))
    rows: list[Tensor] = []
    for t in steps:
        weights = torch.stack([k[t] + first, *(k[i] + (t - 1 - i) * decay for i in range(t))])
        rows.append((weights.softmax(0) * torch.stack([v[t], *v[:t]])).sum(0))
    return torch.stack(rows)


@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_the_weighted_mean_is_that_of_the_paper(size: float) -> None:
    """Also where the first weight is exp(-1000): a state of zeros has no maximum yet."""
    torch.manual_seed(2)
    k, v = size * torch.randn(7, 20, dtype=torch.float64), torch.randn(7, 20, dtype=torch.float64)
    decay, first = -torch.rand(20, dtype=torch.float64), torch.rand(20, dtype=torch.float64)
    state = [torch.zeros(1, 20, dtype=torch.float64) for _ in range(3)]
    inside = torch.ones(1, 7, 1, dtype=torch.bool)
    y, _, den, top = weighted_mean(k[None], v[None], inside, (decay, first), state)
    torch.testing.assert_close(y[0], exact_mean(k, v, decay, first))
    total = torch.stack([k[i] + (6 - i) * decay for i in range(7)]).logsumexp(0)
    torch.testing.assert_close(den[0].log() + top[0], total)
    assert math.isfinite(float(y.sum()))
