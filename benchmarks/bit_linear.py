"""Training with BitLinear as one function against the same in single operations, on a GPU.

    python benchmarks/bit_linear.py --layers 8 --width 2048 --wide 5632 --batch 8 --tokens 2048

Layers of the MatMul-free model (by default a third of the 1.3B shape), forward and backward in
bfloat16 autocast, without an optimizer.  "kept" is what the forward pass leaves for the backward
pass.  The single operations are those of the released code's unfused BitLinear.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.nn import BitLinear, MatMulFreeLM

REPEATS = 6
GIB = 1 << 30


def single_operations(layer: BitLinear, x: Tensor) -> Tensor:
    """BitLinear for autograd to differentiate: straight-through by `detach`."""
    quantiser = layer.quantiser
    x, w = layer.norm(x.float()), layer.weight
    x = x + (quantiser.activations(x) - x).detach()
    w = w + (quantiser.weights(w) - w).detach()
    return nn.functional.linear(x, w)


FORMS: dict[str, Callable[[BitLinear, Tensor], Tensor]] = {
    "single operations": single_operations,
    "one function": BitLinear.forward,
}


def stack(given: argparse.Namespace) -> Callable[[Tensor], Tensor]:
    """The layers as a function of x [B, T, width] that ends in a number."""
    config = HgrnBitConfig.parse(
        {"vocab_size": 8, "hidden_size": given.width, "num_hidden_layers": given.layers,
         "intermediate_size": given.wide}
    )  # fmt: skip
    torch.manual_seed(0)
    trunk = MatMulFreeLM.of(config).cuda().model

    def loss(x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            for layer, bound in zip(trunk.layers, trunk.bounds(), strict=True):
                x = layer(x, bound, None, None)
        return x.float().square().mean()

    return loss


def measured(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[float, float, float]:
    """Milliseconds of forward and backward, GiB kept between them, and the loss."""
    for _ in range(3):
        loss(x).backward()
    times: list[float] = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        loss(x).backward()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    before = torch.cuda.memory_allocated()
    value = loss(x)
    return statistics.median(times), (torch.cuda.memory_allocated() - before) / GIB, value.item()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in (
        ("layers", 8), ("width", 2048), ("wide", 5632), ("batch", 8), ("tokens", 2048),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    x = torch.randn(given.batch, given.tokens, given.width, device="cuda", requires_grad=True)
    print(
        "| BitLinear | torch.compile | ms | tokens/s | kept, GiB | loss |",
        "|---|---|---|---|---|---|",
        sep="\n",
    )
    for name, form in FORMS.items():
        for compiled in (False, True):
            torch.compiler.reset()
            BitLinear.forward = form
            loss = stack(given)
            ms, kept, value = measured(torch.compile(loss) if compiled else loss, x)
            speed = given.batch * given.tokens / ms * 1e3
            told = "yes" if compiled else "no"
            print(f"| {name} | {told} | {ms:.1f} | {speed:,.0f} | {kept:.2f} | {value:.6f} |")


if __name__ == "__main__":
    main()
