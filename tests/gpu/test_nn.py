"""The trainable layers on a GPU against the same on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmc.frontends.models.bit_linear import RmsNorm
from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.nn import MLGRU, BitLinear, MatMulFreeLM, linear_scan
from mmc.nn.recurrence import gated_scan

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def distance(found: Tensor, wanted: Tensor) -> float:
    """0 where both are zero: of one step no gradient reaches a decay."""
    return ((found.cpu() - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("shape", [(2, 1, 3), (3, 65, 40), (4, 512, 384), (1, 700, 33)])
def test_linear_scan(shape: tuple[int, int, int]) -> None:
    f, i, grad = torch.rand(shape), torch.randn(shape), torch.randn(shape)
    f[..., 0], f[..., 1] = 0, 1

    def run(device: str) -> list[Tensor]:
        given = [x.to(device).requires_grad_() for x in (f, i)]
        h = linear_scan(*given)
        return [h.detach(), *torch.autograd.grad(h, given, grad.to(device))]

    for found, wanted in zip(run("cuda"), run("cpu"), strict=True):
        assert distance(found, wanted) < 1e-5


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("shape", [(2, 1, 3), (3, 65, 40), (4, 512, 384), (1, 700, 33)])
def test_gated_scan(shape: tuple[int, int, int], bounded: bool) -> None:
    given = [3 * torch.randn(shape), torch.randn(shape), *[torch.rand(shape[-1])] * bounded]
    grad = torch.randn(shape)

    def run(device: str) -> list[Tensor]:
        leaves = [x.to(device).requires_grad_() for x in given]
        h = gated_scan(leaves[0], leaves[1], leaves[2] if bounded else None)
        return [h.detach(), *torch.autograd.grad(h, leaves, grad.to(device))]

    for found, wanted in zip(run("cuda"), run("cpu"), strict=True):
        assert distance(found, wanted) < 1e-5


@pytest.mark.parametrize(("autocast", "bound"), [(False, 1e-4), (True, 1e-2)])
@pytest.mark.parametrize("given", ["x", "norm", "gate", "halves"])
@pytest.mark.parametrize(("inputs", "outputs"), [(384, 768), (203, 331)])
def test_bit_linear(given: str, inputs: int, outputs: int, autocast: bool, bound: float) -> None:
    halves = given == "halves"
    layer, norm = BitLinear(inputs, outputs), RmsNorm(inputs, 1e-6)
    x, gate = torch.randn(2, 64, inputs * (1 + halves)), torch.randn(2, 64, inputs)
    grad = torch.randn(2, 64, outputs)

    def run(device: str) -> list[Tensor]:
        leaves = [each.to(device).requires_grad_() for each in (x, gate)][: 1 + (given == "gate")]
        used = norm.to(device) if given in ("norm", "gate") else None
        layer.to(device)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast and device == "cuda"):
            y = layer(*leaves, norm=used, halves=halves)
        leaves += [*layer.parameters(), *(used.parameters() if used else [])]
        gradients = torch.autograd.grad(y, leaves, grad.to(device, y.dtype))
        return [each.detach().float() for each in (y, *gradients)]

    wanted = run("cpu")
    for found, expected in zip(run("cuda"), wanted, strict=True):
        assert distance(found, expected) < bound


@pytest.mark.parametrize("gate_order", ["released", "hgrn", "paper"])
def test_what_becomes_of_an_mlgrus_projections(gate_order: str) -> None:
    """No hidden state is kept, and the gradients are right."""
    layer, bound = MLGRU(96, gate_order), torch.rand(96)
    given, grad = [torch.randn(2, 70, 96) for _ in range(3)], torch.randn(2, 70, 96)

    def run(device: str) -> list[Tensor]:
        f, i, g = (x.to(device).requires_grad_() for x in given)
        limit = bound.to(device).requires_grad_()
        layer.to(device)
        output = layer.on_gpu if device == "cuda" else layer.plain
        y = output(f, i, limit, g)
        used = [*layer.o_proj.parameters()]
        used += [] if gate_order == "paper" else [*layer.g_norm.parameters()]
        return [y.detach(), *torch.autograd.grad(y, [f, i, limit, g, *used], grad.to(device))]

    wanted = run("cpu")
    for found, expected in zip(run("cuda"), wanted, strict=True):
        assert distance(found, expected) < 1e-4


@pytest.mark.filterwarnings("default")  # torch.compile has advice
def test_compiled_layers() -> None:
    """torch.compile goes around the kernels: the same numbers, also in the gradients."""
    torch.compiler.reset()
    config = HgrnBitConfig.parse(
        {"vocab_size": 31, "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 80}
    )
    model = MatMulFreeLM.of(config).cuda()
    ids = torch.randint(0, 31, (2, 19), device="cuda")

    def run(forward: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(ids).float().square().mean()
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]

    for found, wanted in zip(run(torch.compile(model)), run(model), strict=True):
        assert distance(found.detach(), wanted.detach().cpu()) < 0.05
