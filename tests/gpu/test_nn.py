"""The trainable layers on a GPU against the same on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmc.nn import BitLinear, linear_scan

pytestmark = pytest.mark.gpu


def distance(found: Tensor, wanted: Tensor) -> float:
    return ((found.cpu() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("shape", [(2, 1, 3), (3, 65, 40), (4, 512, 384), (1, 700, 33)])
def test_linear_scan(shape: tuple[int, int, int]) -> None:
    f, i, grad = torch.rand(shape), torch.randn(shape), torch.randn(shape)
    f[..., 0], f[..., 1] = 0, 1

    def run(device: str) -> list[Tensor]:
        given = [x.to(device).requires_grad_() for x in (f, i)]
        h = linear_scan(*given)
        return [h.detach(), *torch.autograd.grad(h, given, grad.to(device))]

    for found, wanted in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("autocast", "bound"), [(False, 1e-5), (True, 1e-2)])
def test_bit_linear(autocast: bool, bound: float) -> None:
    layer, x, grad = BitLinear(384, 768), torch.randn(2, 64, 384), torch.randn(2, 64, 768)

    def run(device: str) -> list[Tensor]:
        given = x.to(device).requires_grad_()
        layer.to(device)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast and device == "cuda"):
            y = layer(given)
        parameters = [given, *layer.parameters()]
        gradients = torch.autograd.grad(y, parameters, grad.to(device, y.dtype))
        return [each.detach().float() for each in (y, *gradients)]

    wanted = run("cpu")
    for found, expected in zip(run("cuda"), wanted, strict=True):
        assert distance(found, expected) < bound
