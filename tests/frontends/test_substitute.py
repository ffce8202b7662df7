"""Modules that torch cannot trace: replaced by name, told, put back; unknown ones are named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mmc
from mmc.driver import analyse
from mmc.errors import MmcError
from mmc.frontends import substitute
from mmc.frontends.models.bit_linear import ROUNDINGS, Quantiser
from mmc.frontends.torch_export import import_module
from mmc.ir.evaluate import evaluate
from tests.frontends.bit_linears import CASES, COLUMNS


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(substitute, "_REGISTRY", dict(substitute._REGISTRY))  # pyright: ignore[reportPrivateUsage]
    torch.manual_seed(0)
    with torch.no_grad():
        yield


class Kernel(nn.Linear):
    """Reads a number of a tensor and branches on it, as code around hand-written kernels does."""

    def forward(self, input: Tensor) -> Tensor:
        if input.abs().max().item() > 100:
            raise ValueError("too large")
        return F.linear(input, self.weight)


def named(name: str, like: type[nn.Module] = Kernel) -> Any:
    """A class with the qualified name of one of a package that is not installed."""
    module, _, own = name.rpartition(".")
    return type(own, (like,), {"__module__": module, "__qualname__": own})


class Model(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.block = nn.Linear(8, COLUMNS), nn.Sequential(nn.ReLU(), inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.first(x))


class Doubled(nn.Module):
    def __init__(self, original: Any) -> None:
        super().__init__()
        self.weight = original.weight

    def forward(self, x: Tensor) -> Tensor:
        return 2 * F.linear(x, self.weight)


def test_unknown_module_is_named_with_its_path_and_what_to_do() -> None:
    model = Model(named("far.away.Kernel")(COLUMNS, 4))
    with pytest.raises(MmcError, match=r"cannot trace far\.away\.Kernel") as caught:
        import_module(model, (torch.randn(2, 8),))
    assert caught.value.where == "block.1"
    assert "mmc.substitutions.register('far.away.Kernel', " in caught.value.hint


def test_registered_module_is_replaced_told_and_put_back() -> None:
    kernel = named("far.away.Kernel")(COLUMNS, 4)
    model, x = Model(kernel).eval(), torch.randn(2, 8)
    mmc.substitutions.register("far.away.Kernel", Doubled, "doubles")
    found = import_module(model, (x,))
    (told,) = found.substituted
    assert (told.path, told.was, told.declares) == ("block.1", "far.away.Kernel", "doubles")
    assert model.block[1] is kernel
    assert "block.1.weight" in {op.name for op in found.graph.weights}
    wanted = 2 * F.linear(F.relu(model.first(x)), kernel.weight)
    made = evaluate(found.graph, {"x": x.numpy()}, found.tensors)["output"]
    np.testing.assert_allclose(made, wanted.numpy(), 1e-5, 1e-5)


def test_model_itself_is_replaced() -> None:
    mmc.substitutions.register("far.away.Kernel", Doubled, "doubles")
    found = import_module(named("far.away.Kernel")(8, 4), (torch.randn(2, 8),))
    assert [told.path for told in found.substituted] == [""]


def test_put_back_after_an_error() -> None:
    class Broken(Doubled):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((int(x.sum().item()),), 0.0)

    kernel = named("far.away.Kernel")(COLUMNS, 4)
    model = Model(kernel)
    mmc.substitutions.register("far.away.Kernel", Broken, "nothing")
    with pytest.raises(MmcError, match=r"cannot trace .*Broken"):
        import_module(model, (torch.randn(2, 8),))
    assert model.block[1] is kernel


def test_name_must_be_qualified() -> None:
    with pytest.raises(MmcError, match="not a qualified class name"):
        mmc.substitutions.register("Kernel", Doubled, "")


class FusedBitLinear(Kernel):
    """The parameters of mmfreelm's: a norm with an eps that its kernel never sees."""

    def __init__(self) -> None:
        super().__init__(COLUMNS, 48, bias=False)
        self.norm = nn.RMSNorm(COLUMNS, eps=1e-8)
        self.norm.weight.copy_(1 + 0.2 * torch.randn(COLUMNS))

    def wanted(self, x: Tensor) -> Tensor:
        x = F.rms_norm(x, (COLUMNS,), self.norm.weight, 1e-6)
        quantiser = Quantiser(rounding="half_away")
        return F.linear(quantiser.activations(x), quantiser.weights(self.weight))


class BitNetLinear(Kernel):
    """onebitllms': a linear layer to look at."""

    def __init__(self) -> None:
        super().__init__(COLUMNS, 48, bias=True)

    def wanted(self, x: Tensor) -> Tensor:
        scale = 1 / self.weight.abs().mean()
        w = ROUNDINGS["half_up"](self.weight * scale).clamp(-1, 1) / scale
        return F.linear(Quantiser(rounding="half_up").activations(x), w, self.bias)


@pytest.mark.parametrize(
    ("name", "like", "rounding"),
    [
        ("mmfreelm.ops.fusedbitnet.FusedBitLinear", FusedBitLinear, "half_away"),
        ("fla.modules.fused_bitlinear.FusedBitLinear", FusedBitLinear, "half_away"),
        ("onebitllms.layers.bitnet.BitNetLinear", BitNetLinear, "half_up"),
    ],
)
def test_bit_linears_of_triton_kernels(name: str, like: type[nn.Module], rounding: str) -> None:
    layer = named(name, like)()
    model, x = Model(layer).eval(), torch.randn(3, 8)
    done = analyse(import_module(model, (x,)))
    found = next(found for found in done.layers if found.name == "block.1")
    assert found.ternary
    assert found.quantiser is not None
    assert found.quantiser["rounding"] == rounding
    made = evaluate(done.core, {"x": x.numpy()}, done.imported.tensors)["output"]
    wanted = layer.wanted(F.relu(model.first(x))).numpy()
    assert np.abs(made - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.filterwarnings("ignore")
def test_packed_layer_of_transformers() -> None:
    """The registry's form and the module's own give the same."""
    pytest.importorskip("transformers", reason="the extra `dev` installs transformers")
    layer, x = CASES["transformers packed"].make(), torch.randn(3, COLUMNS)
    with mmc.substitutions.substituted(layer) as (traceable, told):
        assert [t.was for t in told] == ["transformers.integrations.bitnet.BitLinear"]
        made = traceable(x)
    assert torch.equal(made, layer(x))


@pytest.mark.parametrize("gate", ["swish", "sigmoid"])
def test_norms_of_triton_kernels(gate: str) -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(1 + torch.rand(8)), 1e-3
            self.activation = gate

    x, o = torch.randn(3, 8) * 0.1, torch.randn(3, 8)
    plain = named("mmfreelm.modules.layernorm.RMSNorm", Norm)()
    gated = named("fla.modules.fused_norm_gate.FusedRMSNormGated", Norm)()
    wanted = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * plain.weight
    with mmc.substitutions.substituted(plain) as (norm, _):
        torch.testing.assert_close(norm(x), wanted)
        torch.testing.assert_close(norm(x, o, prenorm=True)[1], x + o)
    gated.weight = plain.weight
    with mmc.substitutions.substituted(gated) as (norm, _):
        torch.testing.assert_close(
            norm(x, o), wanted * (o.sigmoid() * (1 if gate == "sigmoid" else o))
        )
