"""Cells of the literature, each one step in torch: (x [B, D], *states) -> (y, *states)."""

# pyright: basic
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, logsigmoid, rms_norm, silu, softplus

from mmc.frontends.models.bit_linear import BitLinear, Quantiser

D, N = 6, 3


class Cell(nn.Module):
    """Square matrices a, b, c, ... for a step; `states` are the shapes of its states."""

    states: tuple[tuple[int, ...], ...] = ((D,),)
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    e: Tensor
    f: Tensor
    g: Tensor
    h: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in "abcdefgh":
            setattr(self, name, nn.Parameter(torch.randn(D, D) / D**0.5))
        self.gain = nn.Parameter(torch.randn(D))
        self.rows = nn.Parameter(torch.randn(D, N))


class Average(Cell):
    """An exponential moving average."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        h = h + self.gain.sigmoid() * (x - h)
        return h, h


class MinGru(Cell):
    """arXiv:2410.01201, section 3.1."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        h = torch.lerp(h, linear(x, self.a), linear(x, self.b).sigmoid())
        return h, h


class Mlgru(Cell):
    """arXiv:2406.02528, equations 13 to 17."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        f = linear(x, self.a).sigmoid()
        h = f * h + (1 - f) * silu(linear(x, self.b))
        return linear(linear(x, self.c).sigmoid() * h, self.d), h


class ReleasedMlgru(Cell):
    """The released form: the norm is on the gate, and SiLU on the state."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        f = linear(x, self.a).sigmoid()
        h = silu(linear(x, self.b)) * (1 - f) + h * f
        return linear(rms_norm(linear(x, self.c), (D,), self.gain) * silu(h), self.d), h


class Hgrn(Cell):
    """fla's HGRN (arXiv:2311.04823): a forget gate as a logarithm, and a norm on the state."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        f = logsigmoid(linear(x, self.a))
        h = f.exp() * h + silu(linear(x, self.b)) * (1 - f.exp())
        return linear(rms_norm(h, (D,), self.gain) * silu(linear(x, self.c)), self.d), h


class SelectiveScan(Cell):
    """Mamba (arXiv:2312.00752, algorithm 2), its state D x N as transformers has it."""

    states = ((D, N),)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        step = softplus(linear(x, self.a))
        b, c = linear(x, self.b[:N]), linear(x, self.c[:N])
        decay = torch.exp(step[:, :, None] * -self.rows.exp())
        h = decay * h + step[:, :, None] * b[:, None, :] * x[:, :, None]
        return torch.matmul(h, c.unsqueeze(-1)).squeeze(-1) + x * self.gain, h


class SummedScan(SelectiveScan):
    """The same with a sum, on a state N x D."""

    states = ((N, D),)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        step = softplus(linear(x, self.a)).unsqueeze(1)
        decay = (step * -self.rows.t().exp()).exp()
        h = decay * h + step * linear(x, self.b[:N]).unsqueeze(2) * x.unsqueeze(1)
        return (h * linear(x, self.c[:N]).unsqueeze(2)).sum(1) + x * self.gain, h


class TwoAverages(Cell):
    """Two states, and an output that reads both."""

    states = ((D,), (D,))

    def forward(self, x: Tensor, h: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        h, k = 0.5 * h + x, torch.where(x > 0, k, -k) - linear(x, self.a)
        return torch.cat([h * k, x], -1).mean(-1, keepdim=True), h, k


class TernaryCell(Cell):
    """A minGRU of BitLinears: inside of a step they are found, too."""

    def __init__(self) -> None:
        super().__init__()
        self.z, self.n = (BitLinear(D, D, Quantiser()) for _ in range(2))
        for part in (self.z, self.n):
            part.weight.data = torch.randn(D, D)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        z = self.z(x).sigmoid()
        h = (1 - z) * h + z * self.n(x)
        return h, h


class Rwkv4(Cell):
    """arXiv:2305.13048 with the running maximum, as transformers has it."""

    states = ((D,), (D,), (D,))

    def forward(self, x: Tensor, num: Tensor, den: Tensor, top: Tensor) -> tuple[Tensor, ...]:
        k, v, decay = linear(x, self.a), linear(x, self.b), -self.gain.exp()
        most = torch.maximum(top, k + self.rows[:, 0])
        old, new = torch.exp(top - most), torch.exp(k + self.rows[:, 0] - most)
        y = (old * num + new * v) / (old * den + new)
        most = torch.maximum(top + decay, k)
        old, new = torch.exp(top + decay - most), torch.exp(k - most)
        return y, old * num + new * v, old * den + new, most


class Gru(Cell):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        r = (linear(x, self.a) + linear(h, self.b)).sigmoid()
        z = (linear(x, self.c) + linear(h, self.d)).sigmoid()
        n = torch.tanh(linear(x, self.e) + r * linear(h, self.f))
        h = (1 - z) * n + z * h
        return h, h


class Lstm(Cell):
    states = ((D,), (D,))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        i = (linear(x, self.a) + linear(h, self.b)).sigmoid()
        f = (linear(x, self.c) + linear(h, self.d)).sigmoid()
        o = (linear(x, self.e) + linear(h, self.f)).sigmoid()
        c = f * c + i * torch.tanh(linear(x, self.g) + linear(h, self.h))
        h = o * torch.tanh(c)
        return h, h, c


class Elman(Cell):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        h = torch.tanh(linear(x, self.a) + self.gain * h)
        return h, h


class DenseRnn(Cell):
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        h = linear(x, self.a) + linear(h, self.b)
        return h, h


class Rotated(Cell):
    """Linear, but elements change their places."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        h = x + torch.cat([h[:, 1:], h[:, :1]], 1)
        return h, h


class Crossed(Cell):
    states = ((D,), (D,))

    def forward(self, x: Tensor, h: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        h, k = 0.5 * h + k, 0.5 * k + x
        return h, h, k
