"""BitLinear as its implementations compute it: the forward pass of each, by formula.

`Case.trits` and `Case.scale` say what the implementation itself multiplies with, `Case.quantiser`
how it rounds activations.  Sources are named at each; no package is needed but torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mmc.frontends.models.operators  # noqa: F401  # pyright: ignore[reportUnusedImport]

COLUMNS, ROWS = 64, 48


def straight_through(x: Tensor, q: Tensor) -> Tensor:
    return x + (q - x).detach()


def absmax(x: Tensor, top: float = 127, eps: float = 1e-5) -> Tensor:
    """Range over the largest of each token."""
    return top / x.abs().max(dim=-1, keepdim=True).values.clamp(min=eps)


def absmean_trits(w: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """BitNet b1.58 (arXiv:2402.17764, equation 1): {-1, 0, 1} and mean|w|."""
    scale = w.abs().mean().clamp(min=eps)
    return (w * (1.0 / scale)).round().clamp(-1, 1), scale


def half_up(x: Tensor) -> Tensor:
    return torch.floor(x + 0.5)


def half_away(x: Tensor) -> Tensor:
    return torch.ops.mmc.round_half_away(x)


class Layer(nn.Module):
    """A random weight, heavier than a trained one at the edges of rounding."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(ROWS, COLUMNS) * 0.3)
        self.bias = nn.Parameter(torch.randn(ROWS)) if bias else None
        self.gain = nn.Parameter(1 + 0.2 * torch.randn(COLUMNS))

    def trits(self) -> Tensor:
        return absmean_trits(self.weight)[0]

    def scale(self) -> Tensor:
        return absmean_trits(self.weight)[1]

    def rms(self, x: Tensor, eps: float) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * self.gain


class MmfreelmPlain(Layer):
    """mmfreelm/ops/bitnet.py, BitLinear: norm (eps 1e-8), both quantisers behind estimators."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.rms(x, 1e-8)
        s = absmax(x)
        x = straight_through(x, (x * s).round().clamp(-128, 127) / s)
        t, scale = absmean_trits(self.weight)
        return F.linear(x, straight_through(self.weight, t / (1.0 / scale)))


class MmfreelmFused(Layer):
    """mmfreelm/ops/fusedbitnet.py: the Triton kernel has eps 1e-6 and rounds halves away."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.rms(x, 1e-6)
        s = absmax(x)
        t, scale = absmean_trits(self.weight)
        return F.linear(half_away(x * s).clamp(-128, 127) / s, t / (1.0 / scale))


class Onebitllms(Layer):
    """onebitllms/layers/bitnet.py and its Triton kernels: halves go up, in both quantisers."""

    def forward(self, x: Tensor) -> Tensor:
        s = absmax(x)
        x = straight_through(x, half_up(x * s).clamp(-128, 127) / s)
        w = straight_through(self.weight, self.trits() * self.scale())
        return F.linear(x, w)

    def trits(self) -> Tensor:
        return half_up(self.weight * (1.0 / self.scale())).clamp(-1, 1)


class BitlinearPytorch(Layer):
    """PyPI bitlinear-pytorch 0.5.0: no norm, a bias after the scales."""

    def __init__(self) -> None:
        super().__init__(bias=True)

    def forward(self, x: Tensor) -> Tensor:
        s = 127.0 / x.abs().max(dim=-1, keepdim=True).values.clamp_(min=1e-5)
        xq = straight_through(x, (x * s).round().clamp_(-128, 127) / s)
        t, scale = absmean_trits(self.weight)
        return F.linear(xq, straight_through(self.weight, t / (1.0 / scale)), self.bias)


class Bitlinear(Layer):
    """PyPI bitlinear 2.4.6: range 128, weights over their median, the bias before the scales."""

    def __init__(self) -> None:
        super().__init__(bias=True)

    def rounded(self, x: Tensor, low: int, high: int) -> Tensor:
        return 1.0 * (x.round().clamp(low, high) - x).detach() + x

    def forward(self, x: Tensor) -> Tensor:
        x = torch.layer_norm(x, [COLUMNS])
        sx = absmax(x.detach(), 128)
        sw = 1 / self.weight.detach().abs().median().clamp_(min=1e-5)
        q, t = self.rounded(x * sx, -128, 127), self.rounded(self.weight * sw, -1, 1)
        return F.linear(q, t, self.bias) / (sw * sx)

    def trits(self) -> Tensor:
        return (self.weight * (1 / self.scale())).round().clamp(-1, 1)

    def scale(self) -> Tensor:
        return self.weight.abs().median()


class Mybitnet158(Layer):
    """PyPI mybitnet 0.6.0, BitLinear158b: one activation scale a tensor, range 128."""

    def __init__(self) -> None:
        super().__init__(bias=True)

    def weights(self) -> tuple[Tensor, Tensor]:
        beta = self.weight.abs().mean().clamp(min=1e-6)
        t = torch.clamp(torch.round(self.weight / beta), -1, 1)
        return (t - self.weight).detach() + self.weight, beta

    def forward(self, x: Tensor) -> Tensor:
        x = self.gain * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        gamma = torch.abs(x).max().clamp(min=1e-6)
        scaled = x * 128 / gamma
        q = (torch.clamp(torch.round(scaled), -128, 127) - scaled).detach() + scaled
        w, beta = self.weights()
        return F.linear(q, w, self.bias) * (beta * gamma / 128)

    def trits(self) -> Tensor:
        return torch.clamp(torch.round(self.weight / self.scale()), -1, 1)


class MybitnetBinary(Mybitnet158):
    """PyPI mybitnet 0.6.0, BitLinear: signs of w - mean, scaled by mean|w|."""

    def weights(self) -> tuple[Tensor, Tensor]:
        centred = self.weight - self.weight.mean()
        signs = (centred > 0).to(torch.int8) * 2 - 1
        scaled = centred / centred.abs().max().clamp(min=1e-6)
        return (signs - scaled).detach() + scaled, self.weight.abs().mean()

    def trits(self) -> Tensor:
        return torch.where(self.weight > self.weight.mean(), 1.0, -1.0)


class Kyegomez(Layer):
    """PyPI bitnet 0.2.5 with zeta's SimpleRMSNorm: binary weights sign(w - mean) mean|w|."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(x, dim=-1) * COLUMNS**-0.5
        s = absmax(x)
        x = straight_through(x, (x * s).round().clamp_(-128, 127) / s)
        return F.linear(x, straight_through(self.weight, self.trits() * self.scale()))

    def trits(self) -> Tensor:
        return (self.weight - self.weight.mean()).sign()


class FaqTraining(Layer):
    """Microsoft's "Training tips, code and FAQ" on BitNet b1.58: the training forward."""

    def forward(self, x: Tensor) -> Tensor:
        x = x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        s = absmax(x)
        x = straight_through(x, (x * s).round().clamp(-128, 127) / s)
        t, scale = absmean_trits(self.weight)
        return F.linear(x, straight_through(self.weight, t / (1.0 / scale)))


class FaqInference(Layer):
    """The FAQ's inference forward: stored integers, both scales behind the product."""

    def __init__(self) -> None:
        super().__init__()
        t, scale = absmean_trits(self.weight.detach())
        self.register_buffer("q", t.to(torch.int8))
        self.register_buffer("weight_scale", 1.0 / scale)

    def forward(self, x: Tensor) -> Tensor:
        x = x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        s = absmax(x)
        y = F.linear((x * s).round().clamp(-128, 127), self.get_buffer("q").to(x.dtype))
        return y / self.get_buffer("weight_scale") / s


class FromTransformers(Layer):
    """A layer of transformers.integrations.bitnet, with what a checkpoint would hold."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        from transformers.integrations import bitnet

        library: Any = bitnet
        t, scale = absmean_trits(self.weight.detach())
        if kind == "packed":
            self.layer = library.BitLinear(COLUMNS, ROWS, False, dtype=torch.float32)
            self.layer.weight.copy_(library.pack_weights(t))
            self.layer.weight_scale.fill_(1.0 / scale)
            return
        online = kind == "online"
        self.layer = library.AutoBitLinear(COLUMNS, ROWS, False, online_quant=online)
        self.layer.weight = nn.Parameter(self.weight.detach() if online else t)
        if not online:
            self.layer.weight_scale.fill_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@dataclass(frozen=True)
class Case:
    """An implementation, and what must be found in it beside its own trits and scale."""

    make: Callable[[], Layer]
    quantiser: dict[str, Any] = field(default_factory=dict[str, Any])
    kind: str = "ternary"

    @property
    def wanted(self) -> dict[str, Any]:
        usual = {"range": 127.0, "low": -128, "high": 127, "eps": 1e-5}
        return {**usual, "rounding": "half_even", "granularity": "token", **self.quantiser}


BY_TENSOR = {"range": 128.0, "eps": 1e-6, "granularity": "tensor"}
CASES: dict[str, Case] = {
    "mmfreelm": Case(MmfreelmPlain),
    "mmfreelm fused": Case(MmfreelmFused, {"rounding": "half_away"}),
    "onebitllms": Case(Onebitllms, {"rounding": "half_up"}),
    "bitlinear-pytorch": Case(BitlinearPytorch),
    "bitlinear": Case(Bitlinear, {"range": 128.0}),
    "mybitnet 1.58": Case(Mybitnet158, BY_TENSOR),
    "mybitnet binary": Case(MybitnetBinary, BY_TENSOR, "binary"),
    "bitnet (kyegomez)": Case(Kyegomez, kind="binary"),
    "FAQ training": Case(FaqTraining),
    "FAQ inference": Case(FaqInference),
    "transformers online": Case(lambda: FromTransformers("online")),
    "transformers offline": Case(lambda: FromTransformers("offline")),
    "transformers packed": Case(lambda: FromTransformers("packed")),
}
