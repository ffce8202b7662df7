"""A Llama in plain torch, bf16, with as many parameters as the MatMul-free model of a shape.

Four matrices of width x width and three of width x inner in a layer, as ours has; embedding and
head apart.  Its attention is over a fixed number of positions, so that a step is always the same
work and can be recorded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cuda.shapes import Shape

HEAD = 128
"""Width of an attention head."""

DTYPE = torch.bfloat16

POSITIONS = 8192
"""The longest prompt."""


Cache = tuple[Tensor, Tensor]
"""Keys and values [B, heads, positions, HEAD]."""


class Layer(nn.Module):
    """Attention and a gated MLP, each behind a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        h, f = shape.width, shape.inner
        self.qkv, self.o = matrix(3 * h, h), matrix(h, h)
        self.gate_up, self.down = matrix(2 * f, h), matrix(h, f)
        self.norms = nn.Parameter(torch.ones(2, h, dtype=DTYPE, device="cuda"))

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], cache: Cache | None, at: Tensor | None
    ) -> Tensor:
        """x [B, T, H]; with a cache T is 1, and goes to position `at`."""
        batch, steps, width = x.shape
        qkv = F.linear(norm(x, self.norms[0]), self.qkv)
        q, k, v = qkv.view(batch, steps, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        q, k = turned(q, turn), turned(k, turn)
        if cache is not None and at is not None:
            k, v = cache[0].index_copy_(2, at, k), cache[1].index_copy_(2, at, v)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        x = x + F.linear(mixed.transpose(1, 2).reshape(batch, steps, width), self.o)
        gate, up = F.linear(norm(x, self.norms[1]), self.gate_up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down)


class Llama(nn.Module):
    """Logits of the last position; mode: of torch.compile, for what is `compiled`."""

    def __init__(self, shape: Shape, context: int, mode: str = "default") -> None:
        super().__init__()
        self.embedding = matrix(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.width, dtype=DTYPE, device="cuda"))
        self.head = matrix(shape.vocabulary, shape.width)
        angles = torch.outer(torch.arange(POSITIONS), 1e4 ** -(torch.arange(0, HEAD, 2) / HEAD))
        self.cosine, self.sine = angles.cos().to("cuda", DTYPE), angles.sin().to("cuda", DTYPE)
        sizes = 1, shape.width // HEAD, context, HEAD
        self.caches = [(cache(sizes), cache(sizes)) for _ in self.layers]
        self.compiled = torch.compile(self.step, dynamic=False, mode=mode)

    @torch.no_grad()
    def step(self, ids: Tensor, at: Tensor) -> None:
        """One token [1, 1] at position `at` [1]; the likeliest one takes its place."""
        turn = self.cosine[at], self.sine[at]
        x = F.embedding(ids, self.embedding)
        for layer, held in zip(self.layers, self.caches, strict=True):
            x = layer(x, turn, held, at)
        ids.copy_(F.linear(norm(x, self.norm), self.head).argmax(-1))

    @torch.no_grad()
    def prompt(self, ids: Tensor) -> Tensor:
        """Logits behind a prompt [B, T]."""
        turn = self.cosine[: ids.shape[1]], self.sine[: ids.shape[1]]
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            x = layer(x, turn, None, None)
        return F.linear(norm(x[:, -1:], self.norm), self.head)


def matrix(rows: int, columns: int) -> nn.Parameter:
    """Random weights."""
    return nn.Parameter(torch.randn(rows, columns, dtype=DTYPE, device="cuda") * 0.02)


def cache(sizes: tuple[int, ...]) -> Tensor:
    """Keys or values that were not filled."""
    return torch.zeros(sizes, dtype=DTYPE, device="cuda")


def norm(x: Tensor, gain: Tensor) -> Tensor:
    return F.rms_norm(x, gain.shape, gain, 1e-6)


def turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions: halves of a head are the two coordinates."""
    cosine, sine = turn
    a, b = x.chunk(2, -1)
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine), -1)
