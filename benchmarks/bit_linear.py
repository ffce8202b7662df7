"""Training with BitLinear in one piece against the same in single operations, on a GPU.

    python benchmarks/bit_linear.py --upstream matmulfreellm

Layers of the MatMul-free model (by default a third of the 1.3B shape), forward and backward, with
weights and activations in bfloat16 and without an optimizer.  "kept" is what the forward pass
leaves for the backward pass; "peak" is all that was allocated, weights and their gradients
included.  Every form has the same weights and the same input; "gradient" is the norm of x's.

upstream: a checkout of github.com/ridgerchu/matmulfreellm, whose layers, as released (fused) and
with its own BitLinear in single operations, are measured too.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmc.frontends.models.bit_linear import RmsNorm
from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.nn import MLGRU, BitLinear, MatMulFreeLM
from mmc.nn.bit_linear import ACTIVATIONS
from mmc.nn.matmul_free import Trunk

WARM, REPEATS, GB = 3, 10, 1e9
FUSED = BitLinear.forward, MLGRU.on_gpu


class Layers(nn.Module):
    """X [B, T, width] -> a number; step: x of one layer, given the layer, x and its bound."""

    def __init__(
        self,
        layers: nn.ModuleList,
        bounds: list[Tensor | None],
        step: Callable[[nn.Module, Tensor, Tensor | None], Tensor],
    ) -> None:
        super().__init__()
        self.layers = layers.cuda().bfloat16()
        self.bounds = [None if each is None else each.detach().cuda() for each in bounds]
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        for layer, bound in zip(self.layers, self.bounds, strict=True):
            x = self.step(layer, x, bound)
        return x.float().square().mean()


Form = Callable[[Trunk, dict[str, Any]], Layers]
"""From the weights and the configuration to what is measured."""


def single_operations(
    layer: BitLinear,
    x: Tensor,
    gate: Tensor | None = None,
    norm: RmsNorm | None = None,
    activation: str = "silu",
    halves: bool = False,
) -> Tensor:
    """BitLinear for autograd to differentiate: straight-through by `detach`."""
    if halves:
        gate, x = x.chunk(2, -1)
    x = x if norm is None else norm(x)
    x = x if gate is None else x * ACTIVATIONS[activation](gate)
    x, w, quantiser = layer.norm(x), layer.weight, layer.quantiser
    x = x + (quantiser.activations(x) - x).detach()
    w = w + (quantiser.weights(w) - w).detach()
    return nn.functional.linear(x.to(w.dtype), w)


def own(forward: Callable[..., Tensor], after: Callable[..., Tensor]) -> Form:
    """The layers of `mmc.nn` with this forward of BitLinear, and of what an MLGRU projected."""

    def form(trunk: Trunk, sizes: dict[str, Any]) -> Layers:
        BitLinear.forward, MLGRU.on_gpu = forward, after
        layers = copy.deepcopy(trunk.layers)
        return Layers(layers, trunk.bounds(), lambda layer, x, bound: layer(x, bound, None, None))

    return form


def released(fused: bool) -> Form:
    """The layers of the released code."""

    def form(trunk: Trunk, sizes: dict[str, Any]) -> Layers:
        import triton.language as tl
        from triton.language.extra.cuda import libdevice

        tl.math.round = libdevice.round  # where Triton had it when the code was written
        from mmfreelm.layers import hgrn_bit as mixer
        from mmfreelm.models.hgrn_bit import modeling_hgrn_bit as model
        from mmfreelm.ops import fusedbitnet

        for module in (mixer, model):
            module.BitLinear = fusedbitnet.FusedBitLinear if fused else fusedbitnet.BitLinear
        config, count = model.HGRNBitConfig(**sizes), len(trunk.layers)
        with torch.device("cuda"):
            layers = nn.ModuleList(model.HGRNBitBlock(config, number) for number in range(count))
        layers.load_state_dict(trunk.layers.state_dict())
        return Layers(
            layers, trunk.bounds(), lambda layer, x, bound: layer(x, lower_bound=bound)[0]
        )

    return form


def forms(upstream: str | None) -> Iterator[tuple[str, Form]]:
    if upstream:
        sys.path.append(upstream)
        yield "released code, single operations", released(fused=False)
        yield "released code, fused", released(fused=True)
    yield "mmc.nn, single operations", own(single_operations, MLGRU.plain)
    yield "mmc.nn", own(*FUSED)


@dataclass
class Measured:
    """Milliseconds of forward and backward, bytes, the loss, and the norm of x's gradient."""

    ms: float
    kept: int
    peak: int
    loss: float
    gradient: float

    def __str__(self) -> str:
        return (
            f"{self.ms:.1f} | {self.kept / GB:.2f} | {self.peak / GB:.2f} | {self.loss:.5f} | "
            f"{self.gradient:.4e}"
        )


def measured(layers: Layers, x: Tensor) -> Measured:
    times: list[float] = []
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM + REPEATS):
        layers.zero_grad(set_to_none=True)
        x.grad = None
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before = torch.cuda.memory_allocated()
        start.record()
        loss = layers(x)
        kept = torch.cuda.memory_allocated() - before
        loss.backward()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    assert x.grad is not None
    gradient = x.grad.float().norm().item()
    peak = torch.cuda.max_memory_allocated()
    return Measured(statistics.median(times[WARM:]), kept, peak, loss.item(), gradient)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in (
        ("layers", 8), ("width", 2048), ("wide", 5632), ("batch", 8), ("tokens", 2048),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--upstream", metavar="FOLDER", help="of the released code")
    given = parser.parse_args()
    sizes = {
        "vocab_size": 8, "hidden_size": given.width, "num_hidden_layers": given.layers,
        "intermediate_size": given.wide,
    }  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda"):
        trunk = MatMulFreeLM.of(HgrnBitConfig.parse(sizes)).model.bfloat16().cpu()
    shape = (given.batch, given.tokens, given.width)
    x = torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    print("| BitLinear | ms | kept, GB | peak, GB | loss | gradient |", "|---|---|---|---|---|---|",
          sep="\n")  # fmt: skip
    for name, form in forms(given.upstream):
        print(f"| {name} | {measured(form(trunk, sizes), x)} |", flush=True)


if __name__ == "__main__":
    main()
