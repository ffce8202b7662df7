"""A step in torch, compiled over time for the CPU: a prompt and its steps one by one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import linear, softplus

import mmc
from mmc.frontends.models.bit_linear import BitLinear, Quantiser
from tests.folders import workspace

WIDTH, ROWS = 20, 3


class TernaryMinGru(nn.Module):
    """arXiv:2410.01201 with BitLinear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.z, self.n = (BitLinear(WIDTH, WIDTH, Quantiser()) for _ in range(2))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        z = self.z(x).sigmoid()
        h = (1 - z) * h + z * self.n(x)
        return h, h


class SelectiveScan(nn.Module):
    """arXiv:2312.00752, algorithm 2, with the state [B, N, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.empty(WIDTH, WIDTH))
        self.b, self.c = (nn.Parameter(torch.empty(ROWS, WIDTH)) for _ in range(2))
        self.a = nn.Parameter(torch.empty(ROWS, WIDTH))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        step = softplus(linear(x, self.step)).unsqueeze(1)
        h = (step * -self.a.exp()).exp() * h + step * linear(x, self.b).unsqueeze(2) * x[:, None]
        return (h * linear(x, self.c).unsqueeze(2)).sum(1), h


CELLS = {"ternary": TernaryMinGru, "selective": SelectiveScan}
STATES = {"ternary": (WIDTH,), "selective": (ROWS, WIDTH)}


@cache
def module(name: str) -> nn.Module:
    torch.manual_seed(7)
    made = mmc.over_time(CELLS[name]()).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape) / 3)
    return made


@cache
def compiled(name: str) -> mmc.Module:
    batch, time = Dim("B"), Dim("T")
    example = torch.randn(3, 5, WIDTH), torch.randn(3, *STATES[name])
    shapes = ({0: batch, 1: time}, ({0: batch},))
    out: Path = workspace() / f"over-time-{name}"
    mmc.compile(
        module(name), example, dynamic_shapes=shapes, out=out, mcpu="native",
        no_fallback=name == "ternary",
    )  # fmt: skip
    loaded = mmc.load(out)
    assert isinstance(loaded, mmc.Module)
    return loaded


@pytest.mark.parametrize("name", CELLS)
def test_a_prompt_is_its_steps(name: str) -> None:
    torch.manual_seed(1)
    x, h = torch.randn(2, 9, WIDTH), torch.rand(2, *STATES[name])
    y, last = compiled(name)(x, h)
    with torch.no_grad():
        wanted = module(name)(x, h)
    for found, theirs in zip((y, last), wanted, strict=True):
        np.testing.assert_allclose(found.numpy(), theirs.numpy(), 1e-4, 1e-4)
    for t in range(9):
        one, h = compiled(name)(x[:, t : t + 1], h)
        assert torch.equal(one[:, 0], y[:, t])
    assert torch.equal(h, last)
