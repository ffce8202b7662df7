"""The GPU's kernels under Triton's interpreter, on the CPU, against autograd of the plain path."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmc.frontends.models.bit_linear import Quantiser, RmsNorm
from mmc.nn.bit_linear import BitLinear
from mmc.nn.mlgru import MLGRU
from mmc.nn.recurrence import fused_gated_scan, gated_scan

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a GPU runs these kernels itself: tests/gpu/test_nn.py", allow_module_level=True)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles each way, and several rows for each program."""
    from mmc.nn import bit_linear_triton

    torch.manual_seed(0)
    monkeypatch.setattr(bit_linear_triton, "TILE", {"M": 16, "N": 32, "K": 16})
    monkeypatch.setattr(bit_linear_triton, "PROGRAMS", 5)


def compare(found: Tensor, wanted: Tensor, leaves: list[Tensor], tolerance: float) -> None:
    """Two results and their gradients by a random one."""
    grad = torch.randn_like(wanted)
    pairs = zip(
        [found, *torch.autograd.grad(found, leaves, grad)],
        [wanted, *torch.autograd.grad(wanted, leaves, grad)],
        strict=True,
    )
    for number, (one, other) in enumerate(pairs):
        error = (one - other).norm() / other.norm()
        assert one.dtype is other.dtype
        assert error <= tolerance, (number, error)


@pytest.mark.parametrize(
    ("given", "activation", "before"),
    [("x", "", False), ("x", "", True), ("gate", "silu", True), ("gate", "sigmoid", False),
     ("halves", "silu", False)],
)  # fmt: skip
@pytest.mark.parametrize(
    ("sizes", "quantiser"),
    [((40, 24), Quantiser()), ((37, 51), Quantiser(None, rounding="half_up")),
     ((70, 90), Quantiser(1e-5, rounding="half_even"))],
)  # fmt: skip
def test_bit_linear(
    given: str, activation: str, before: bool, sizes: tuple[int, int], quantiser: Quantiser
) -> None:
    inputs, outputs = sizes
    layer, norm = BitLinear(inputs, outputs, quantiser), RmsNorm(inputs, 1e-3)
    for gain in (norm.weight, layer.gain):
        if gain is not None:
            gain.data += 0.3 * torch.randn(inputs)
    halves = given == "halves"
    x = torch.randn(2, 11, (1 + halves) * inputs).requires_grad_()
    gate = torch.randn(2, 11, inputs).requires_grad_() if given == "gate" else None
    used = norm if before else None
    leaves = [x, *layer.parameters(), *([gate] if gate is not None else [])]
    leaves += [norm.weight] if before else []
    compare(
        layer.on_gpu(x, gate, used, activation, halves),
        layer(x, gate, used, activation, halves),
        leaves,
        1e-5,
    )


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("shape", [(2, 1, 3), (2, 33, 70), (1, 100, 5)])
def test_gated_scan(bounded: bool, shape: tuple[int, int, int]) -> None:
    f, i = (4 * torch.randn(shape, requires_grad=True) for _ in range(2))
    f, i = f.detach().requires_grad_(), i.detach().requires_grad_()
    bound = torch.rand(shape[-1]).requires_grad_() if bounded else None
    leaves = [f, i] if bound is None else [f, i, bound]
    compare(fused_gated_scan(f, i, bound), gated_scan(f, i, bound), leaves, 1e-5)


def test_gated_scan_is_computed_again_in_a_checkpoint() -> None:
    """Where each tensor that was kept may be asked for once."""
    f, i, bound = (torch.rand(shape, requires_grad=True) for shape in ((2, 9, 5), (2, 9, 5), (5,)))
    found = checkpoint(fused_gated_scan, f, i, bound, use_reentrant=False)
    compare(found, gated_scan(f, i, bound), [f, i, bound], 1e-5)


@pytest.mark.parametrize("gate_order", ["released", "hgrn", "paper"])
@pytest.mark.parametrize(("bounded", "quantiser"), [(True, Quantiser()), (False, Quantiser(None))])
def test_gated_output(gate_order: str, bounded: bool, quantiser: Quantiser) -> None:
    """Its gradients, though no hidden state is kept."""
    layer = MLGRU(24, gate_order, quantiser=quantiser)
    for gain in (p for p in layer.parameters() if p.ndim == 1):
        gain.data += 0.3 * torch.randn(24)
    f, i, g = (2 * torch.randn(2, 33, 24) for _ in range(3))
    leaves = [each.requires_grad_() for each in (f, i, g, *[torch.rand(24)] * bounded)]
    bound = leaves[3] if bounded else None
    found, kept = layer.on_gpu(f, i, bound, g), list[Tensor]()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        layer.on_gpu(f, i, bound, g)
    rows = {x.data_ptr() for x in kept if x.shape == f.shape}
    assert rows == {x.data_ptr() for x in (f, i, g)}
    leaves += [*layer.o_proj.parameters()]
    leaves += [] if gate_order == "paper" else [*layer.g_norm.parameters()]
    compare(found, layer.plain(f, i, bound, g), leaves, 1e-5)
