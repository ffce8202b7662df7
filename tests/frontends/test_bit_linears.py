"""Every BitLinear of tests/frontends/bit_linears.py is recognised; nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mmc
from mmc.driver import Compilation, analyse
from mmc.frontends.torch_export import import_module
from mmc.inspection import weights_of
from mmc.ir.evaluate import evaluate
from mmc.ir.ops.source import Weight
from mmc.ir.ops.ternary import TernaryMatmul
from tests.end_to_end.test_dynamo_transformers import MODELS
from tests.frontends.bit_linears import CASES, COLUMNS, Layer

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, about what it traces


@cache
def analysed(name: str) -> tuple[Layer, Tensor, Compilation]:
    if name.startswith("transformers"):
        pytest.importorskip("transformers", reason="the extra `dev` installs transformers")
    torch.manual_seed(1)
    layer, x = CASES[name].make().eval(), torch.randn(3, 5, COLUMNS)
    with torch.no_grad():
        return layer, x, analyse(import_module(layer, (x,)))


@pytest.mark.parametrize("name", CASES)
def test_layer_is_recognised(name: str) -> None:
    layer, _, done = analysed(name)
    (found,) = done.layers
    assert found.quantiser == CASES[name].wanted
    assert (weights_of(vars(found)), found.granularity) == (CASES[name].kind, "tensor")
    assert found.scale == pytest.approx(float(layer.scale()), rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_trits_are_those_of_the_layer(name: str) -> None:
    layer, _, done = analysed(name)
    (product,) = (op for op in done.core if isinstance(op, TernaryMatmul))
    assert isinstance(product.w, Weight)
    trits = done.imported.tensors[product.w.name]
    assert np.array_equal(trits, layer.trits().detach().numpy())


@pytest.mark.parametrize("name", CASES)
def test_output_is_that_of_the_layer(name: str) -> None:
    layer, x, done = analysed(name)
    made = evaluate(done.core, {done.core.inputs[0].name: x.numpy()}, done.imported.tensors)
    with torch.no_grad():
        wanted = layer(x).numpy()
    assert np.abs(made["output"] - wanted).max() <= 1e-6 * np.abs(wanted).max()


class Dense(nn.Module):
    """Linear layers, a convolution, batch norm, attention, a gated recurrence step: all dense."""

    def __init__(self, weights: Callable[[int, int], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 64, 3, padding=1)
        self.norm = nn.BatchNorm2d(64)
        self.layers = nn.ModuleList([nn.Linear(64, 64) for _ in range(4)])
        for layer in self.layers:
            layer.weight = nn.Parameter(weights(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, gate = self.layers
        x = F.relu(self.norm(self.conv(x))).mean(-1).mT
        y = F.scaled_dot_product_attention(q(x), k(x), v(x))
        a = torch.exp(-F.softplus(gate(x)))
        return a * x + (1 - a) * y


def _int8(rows: int, columns: int) -> Tensor:
    return torch.randint(-127, 128, (rows, columns)) * 0.01


DENSE: dict[str, Callable[[int, int], Tensor]] = {
    "normal": torch.randn,
    "uniform": torch.rand,
    "sparse": lambda n, k: torch.randn(n, k) * (torch.rand(n, k) < 0.1),
    "int8": _int8,
    "four values": lambda n, k: torch.randint(-1, 3, (n, k)) * 0.3,
    "two scales": lambda n, k: torch.randint(-1, 2, (n, k)) * (1.0 + torch.arange(k) % 2),
    "identity": torch.eye,
    "constant": lambda n, k: torch.full((n, k), 0.2),
    "selection": lambda n, k: torch.eye(n)[torch.randperm(n)] * 3,
    "mask": lambda n, k: (torch.rand(n, k) < 0.5).float(),
}


@pytest.mark.parametrize("kind", DENSE)
def test_dense_weights_are_not_ternary(kind: str) -> None:
    torch.manual_seed(0)
    module = Dense(DENSE[kind]).eval()
    done = analyse(import_module(module, (torch.randn(2, 1, 6, 5),)))
    assert len(done.layers) == 7  # with the products of attention
    assert [layer.name for layer in done.layers if layer.ternary] == []
    assert all(layer.why for layer in done.layers)
    assert taken_for_ternary(done) == []


def taken_for_ternary(done: Compilation) -> list[str]:
    """Matrices whose values passed, whatever their activations are."""
    steps = [step for step in done.steps if step.name == "find-ternary-linear"]
    assert steps
    return [v.where for step in steps for v in step.log.verdicts if v.fired]


class Output(nn.Module):
    """The first output of a model of transformers, without its caches."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, return_dict=False)[0]


@pytest.mark.parametrize(("name", "linear"), [("llama", 15), ("mamba", 7), ("resnet", 9)])
def test_models_of_transformers_are_dense(name: str, linear: int) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    model.config.use_cache = False
    x = torch.randn(1, 3, 32, 32) if name == "resnet" else torch.randint(3, 50, (1, 3))
    done = analyse(import_module(Output(model), (x,)))
    assert sum(layer.why != "a product of two activations" for layer in done.layers) == linear
    assert [layer.name for layer in done.layers if layer.ternary] == []
    assert taken_for_ternary(done) == []


@pytest.mark.parametrize("name", ["bitlinear", "mybitnet 1.58"])
def test_every_pass_holds(name: str, tmp_path: Path) -> None:
    """A scale made of `detach(x)`, and one for the whole tensor."""
    layer, x, _ = analysed(name)
    mmc.compile(layer, (x,), target="reference", out=tmp_path / "out", check=True)
