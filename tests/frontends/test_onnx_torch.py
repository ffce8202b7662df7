"""Modules that torch.onnx.export wrote, by both of its exporters: equal to onnxruntime."""

# The stubs of torch leave these types unknown.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan_op
from torch.export import Dim

import mmc
from tests.end_to_end.test_modules import BitLinear, BitStack
from tests.frontends.onnx_models import error, imported, interpreted, runtime


def exported(path: Path, module: Any, given: tuple[Tensor, ...], **options: Any) -> Path:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of what is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        torch.onnx.export(module, given, path, verbose=False, **options)
    return path


def agree(path: Path, *given: Tensor, within: float = 1e-6) -> Any:
    """The recognised graph against onnxruntime."""
    arrays = [x.detach().numpy() for x in given]
    done = imported(path)
    for mine, theirs in zip(interpreted(done, *arrays), runtime(path, *arrays), strict=True):
        assert error(mine, theirs) <= within
    return done


@pytest.mark.parametrize("dynamo", [True, False])
def test_bitlinear_as_it_is_trained(dynamo: bool, tmp_path: Path) -> None:
    """Straight-through estimators on both sides: without their marks in ONNX."""
    x = torch.randn(3, 24)
    shapes: dict[str, Any] = (
        {"dynamic_shapes": ({0: Dim("rows")},)}
        if dynamo
        else {"input_names": ["x"], "dynamic_axes": {"x": {0: "rows"}}}
    )
    path = exported(tmp_path / "m.onnx", BitStack().eval(), (x,), dynamo=dynamo, **shapes)
    done = agree(path, x)
    assert [layer.ternary for layer in done.layers] == [True, True]
    assert [layer.name for layer in done.layers] == ["first", "second"]
    assert all(layer.quantiser for layer in done.layers)
    agree(path, torch.randn(7, 24))


class Memory(nn.Module):
    """The MLGRU with torch's scan."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.f, self.i = BitLinear(16, 32, bias=False), BitLinear(16, 32, bias=False)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        f = self.f(x).sigmoid()
        i = nn.functional.silu(self.i(x)) * (1 - f)

        def step(h: Tensor, f: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
            h = f * h + i
            return h, h.clone()

        last, hs = scan_op(step, [h], [f.movedim(1, 0), i.movedim(1, 0)], ())
        return hs.movedim(0, 1), last


def test_scan_of_torch(tmp_path: Path) -> None:
    x, h = torch.randn(2, 7, 16), torch.randn(2, 32)
    shapes = ({1: Dim("time")}, None)
    path = exported(tmp_path / "m.onnx", Memory().eval(), (x, h), dynamo=True,
                    dynamic_shapes=shapes)  # fmt: skip
    done = agree(path, x, h)
    assert [layer.ternary for layer in done.layers] == [True, True]
    assert [found.linear for found in done.recurrences] == [True]
    agree(path, torch.randn(2, 3, 16), h)


class Scripted(nn.Module):
    """A loop in Python."""

    def forward(self, x: Tensor, g: Tensor, h: Tensor) -> Tensor:
        made: list[Tensor] = []
        for t in range(x.shape[1]):
            h = g[:, t] * h + x[:, t]
            made.append(h)
        return torch.stack(made, 1)


def test_scripted_loop(tmp_path: Path) -> None:
    x, g, h = torch.randn(2, 7, 16), torch.rand(2, 7, 16), torch.randn(2, 16)
    names = ["x", "g", "h"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Scripted())
    path = exported(
        tmp_path / "m.onnx", scripted, (x, g, h), dynamo=False, input_names=names
    )  # fmt: skip
    done = agree(path, x, g, h)
    assert [found.linear for found in done.recurrences] == [True]


def encoder(path: Path) -> Path:
    """Attention, norms and dense layers over any number of positions."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True).eval()
    shapes = ({1: Dim("time", min=2, max=64)},)
    return exported(path, layer, (torch.randn(2, 5, 32),), dynamo=True, dynamic_shapes=shapes)


def test_dense_module_has_no_ternary_layer(tmp_path: Path) -> None:
    path = encoder(tmp_path / "m.onnx")
    done = agree(path, torch.randn(2, 5, 32), within=1e-5)
    assert len(done.layers) == 6
    assert not any(layer.ternary for layer in done.layers)
    assert all(layer.why for layer in done.layers)
    agree(path, torch.randn(2, 9, 32), within=1e-5)


@pytest.mark.slow
def test_dense_module_on_the_cpu(tmp_path: Path) -> None:
    """A graph that is no language model compiles all the same."""
    path = encoder(tmp_path / "m.onnx")
    loaded = mmc.load(mmc.compile(path, out=tmp_path / "out", mcpu="native").path)
    assert isinstance(loaded, mmc.Module)
    for positions in (5, 9):
        x = torch.randn(2, positions, 32).numpy()
        assert error(loaded(x), runtime(path, x)[0]) <= 1e-5
