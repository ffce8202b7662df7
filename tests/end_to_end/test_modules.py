"""Any nn.Module: dense, ternary, several inputs, dynamic sizes; and what cannot be compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import mmc
from mmc.errors import MmcError
from tests.end_to_end.compiled import one_thread

one_thread()

DYNAMIC = ({0: Dim("B", min=1, max=64)},)


def compiled(
    module: nn.Module, inputs: tuple[Any, ...], out: Path, **options: Any
) -> tuple[mmc.Artifact, mmc.Module]:
    artifact = mmc.compile(module.eval(), inputs, out=out / "artifact", **options)
    loaded = mmc.load(artifact.path)
    assert isinstance(loaded, mmc.Module)
    return artifact, loaded


def difference(found: Any, wanted: Tensor) -> float:
    """The largest error over the largest number."""
    a, b = np.asarray(found), wanted.detach().numpy()
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(20, 33), nn.Linear(33, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class BitLinear(nn.Linear):
    """As a paper's appendix writes it: straight-through estimators round in the forward pass."""

    def forward(self, input: Tensor) -> Tensor:
        x = input * torch.rsqrt(input.pow(2).mean(-1, keepdim=True) + 1e-6)
        scale = 127 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
        x_hat = x + ((x * scale).round().clamp(-128, 127) / scale - x).detach()
        step = 1 / self.weight.abs().mean().clamp(min=1e-5)
        w_hat = (
            self.weight + ((self.weight * step).round().clamp(-1, 1) / step - self.weight).detach()
        )
        return nn.functional.linear(x_hat, w_hat)


class BitStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = BitLinear(24, 50, bias=False)
        self.second = BitLinear(50, 9, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.norm, self.up, self.head = nn.LayerNorm(18), nn.Linear(18, 30), nn.Linear(30, 11)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.head(nn.functional.gelu(self.up(self.norm(x)))), -1)


class TwoOfEach(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return a + b, a, (a * b).sum(-1)


class InPlaceOfItself(nn.Module):
    def forward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        doubled = a + a
        return doubled, doubled


class Median(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.median(-1).values


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Decomposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.qr(x).R


def test_dense_module_gives_what_torch_gives(tmp_path: Path) -> None:
    module, x = Mlp(), torch.randn(4, 20)
    artifact, loaded = compiled(module, (x,), tmp_path)
    assert difference(loaded(x), module(x)) <= 1e-5
    layers = artifact.manifest["layers"]
    assert [layer["ternary"] for layer in layers] == [False, False]
    assert all(layer["why"] for layer in layers)


def test_same_kind_comes_back(tmp_path: Path) -> None:
    x = torch.randn(4, 20)
    _, loaded = compiled(Mlp(), (x,), tmp_path)
    from_torch, from_numpy = loaded(x), loaded(x.numpy())
    assert isinstance(from_torch, Tensor)
    assert isinstance(from_numpy, np.ndarray)
    assert np.array_equal(from_torch.numpy(), from_numpy)


@pytest.mark.parametrize("option", ["no_fallback", "require_matmul_free"])
def test_dense_layers_can_be_refused(option: str, tmp_path: Path) -> None:
    with pytest.raises(MmcError) as caught:
        compiled(Mlp(), (torch.randn(4, 20),), tmp_path, **{option: True})
    message = str(caught.value)
    assert option.replace("_", "-") in message
    assert "up: " in message
    assert "down: " in message
    assert list(tmp_path.iterdir()) == []


def test_training_form_becomes_ternary(tmp_path: Path) -> None:
    module, x = BitStack(), torch.randn(3, 24)
    artifact, loaded = compiled(
        module, (x,), tmp_path, check=True, no_fallback=True, require_matmul_free=True
    )
    assert difference(loaded(x), module(x)) <= 1e-5
    assert [layer["name"] for layer in artifact.manifest["layers"]] == ["first", "second"]
    assert artifact.manifest["sizes"]["per_token"]["dense_multiplications"] == 0


def test_batch_of_any_size(tmp_path: Path) -> None:
    module = Block()
    _, loaded = compiled(module, (torch.randn(3, 18),), tmp_path, dynamic_shapes=DYNAMIC)
    for rows in (1, 2, 33):
        x = torch.randn(rows, 18)
        assert difference(loaded(x), module(x)) <= 1e-5


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    a, b = torch.randn(5, 6), torch.randn(5, 6)
    _, loaded = compiled(TwoOfEach(), (a, b), tmp_path)
    made = loaded(a, b)
    assert isinstance(made, tuple)
    for found, wanted in zip(made, TwoOfEach()(a, b), strict=True):
        assert difference(found, wanted) <= 1e-6


def test_same_value_twice(tmp_path: Path) -> None:
    a = torch.randn(5, 6)
    _, loaded = compiled(InPlaceOfItself(), (a,), tmp_path)
    first, second = loaded(a)
    assert difference(first, a + a) == 0
    assert difference(second, a + a) == 0


def test_outputs_are_the_callers_own(tmp_path: Path) -> None:
    """A second call must not write into what the first one returned."""
    x = torch.randn(4, 20)
    _, loaded = compiled(Mlp(), (x,), tmp_path)
    first = loaded(x)
    kept = first.clone()
    loaded(x + 1)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("shapes", [[], [(4, 20), (1,)], [(4, 21)], [(20,)]])
def test_wrong_call_is_refused(shapes: list[tuple[int, ...]], tmp_path: Path) -> None:
    _, loaded = compiled(Mlp(), (torch.randn(4, 20),), tmp_path)
    with pytest.raises(MmcError):
        loaded(*(np.zeros(shape, np.float32) for shape in shapes))


class Applied(nn.Module):
    """A function without weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum of the first axis": lambda x: x.sum(0),
    "input itself": lambda x: x,
    "transposed view": lambda x: x.T,
    "part": lambda x: x[1:3, ::2],
    "bool": lambda x: x > 0,
    "int64": lambda x: (x * 10).to(torch.int64),
    "bf16": lambda x: x.bfloat16() * 2,
    "f16": lambda x: x.half() * 2,
    "int8": lambda x: (x * 10).round().clamp(-128, 127).to(torch.int8),
    "scalar": lambda x: x.mean(),
    "product of activations": lambda x: x @ x.T,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_module_without_weights(name: str, tmp_path: Path) -> None:
    function, x = FUNCTIONS[name], torch.randn(4, 5)
    _, loaded = compiled(Applied(function), (x,), tmp_path)
    found, wanted = loaded(x), function(x)
    assert found.dtype == wanted.dtype
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_bf16_output_of_the_interpreter(tmp_path: Path) -> None:
    x = torch.randn(4, 5)
    _, loaded = compiled(Applied(FUNCTIONS["bf16"]), (x,), tmp_path, target="reference")
    assert torch.equal(loaded(x), FUNCTIONS["bf16"](x))


@pytest.mark.parametrize("shape", [(24,), (1, 24), (50, 24), (2, 3, 24)])
def test_ternary_layer_of_any_rank(shape: tuple[int, ...], tmp_path: Path) -> None:
    """A batch as large as the matrix has rows must not be taken for it."""
    module, x = BitStack(), torch.randn(shape)
    _, loaded = compiled(module, (x,), tmp_path)
    assert difference(loaded(x), module(x)) <= 1e-5


def test_numbers_are_not_cut_to_integers(tmp_path: Path) -> None:
    _, loaded = compiled(Applied(lambda x: x + 1), (torch.arange(3),), tmp_path)
    with pytest.raises(MmcError, match="float"):
        loaded(np.array([0.5, 1.5, 2.5]))


def test_operation_without_a_cpu_kernel_is_named(tmp_path: Path) -> None:
    with pytest.raises(MmcError, match="median") as caught:
        compiled(Median(), (torch.randn(4, 5),), tmp_path)
    assert "test_modules.py:" in str(caught.value)
    assert "--target reference" in str(caught.value)
    _, loaded = compiled(Median(), (torch.randn(4, 5),), tmp_path, target="reference")
    x = torch.randn(4, 5)
    assert difference(loaded(x), Median()(x)) <= 1e-5


@pytest.mark.parametrize(
    ("module", "shape", "name"),
    [(Convolution(), (1, 3, 8, 8), "conv"), (Decomposed(), (4, 4), "qr")],
)
def test_operation_without_a_translation_is_named(
    module: nn.Module, shape: tuple[int, ...], name: str, tmp_path: Path
) -> None:
    with pytest.raises(MmcError, match=name) as caught:
        compiled(module, (torch.randn(shape),), tmp_path)
    assert "test_modules.py:" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
