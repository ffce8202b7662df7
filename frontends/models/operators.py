"""Operators that PyTorch lacks, under torch.ops.mmc: one node each in a trace.

Importing this module registers them.  Each has a plain eager form, and a shape for tracing.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false, reportUnusedFunction=false
from __future__ import annotations

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("mmc", "DEF")
_LIBRARY.define("round_half_away(Tensor x) -> Tensor")
_LIBRARY.define("take_position(Tensor x, Tensor index) -> Tensor")
_LIBRARY.define("causal_conv(Tensor x, Tensor state, Tensor w, Tensor? bias=None) -> Tensor")
_LIBRARY.define("conv_window(Tensor x, Tensor state, Tensor lengths) -> Tensor")
_LIBRARY.define("rotary(Tensor x, Tensor cos, Tensor sin) -> Tensor")
_LIBRARY.define("cache_append(Tensor cache, Tensor x, Tensor position, Tensor lengths) -> Tensor")
_LIBRARY.define(
    "attention(Tensor q, Tensor keys, Tensor values, Tensor position, float scale) -> Tensor"
)
_LIBRARY.define("layer(Tensor[] through, Tensor[] given, str path) -> Tensor[]")


@torch.library.impl(_LIBRARY, "round_half_away", "CompositeExplicitAutograd")
def round_half_away(x: Tensor) -> Tensor:
    """The nearest integer, halves away from zero: C's `round`, and Triton's."""
    whole = torch.trunc(x)
    # x - whole is exact, unlike x + 0.5, which turns 0.49999997 into 1.
    return whole + torch.where((x - whole).abs() >= 0.5, torch.sign(x), 0.0)


@torch.library.impl(_LIBRARY, "take_position", "CompositeExplicitAutograd")
def take_position(x: Tensor, index: Tensor) -> Tensor:
    """One position of each sequence: x [B, T, ...], index i64[B] -> [B, 1, ...]."""
    return x[torch.arange(x.shape[0], device=x.device), index].unsqueeze(1)


@torch.library.impl(_LIBRARY, "causal_conv", "CompositeExplicitAutograd")
def causal_conv(x: Tensor, state: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Depthwise: x [B, T, D], the width - 1 inputs before it [B, width - 1, D], w [D, width]."""
    past = torch.cat([state, x], 1).transpose(1, 2)
    return torch.nn.functional.conv1d(past, w.unsqueeze(1), bias, groups=len(w)).transpose(1, 2)


@torch.library.impl(_LIBRARY, "conv_window", "CompositeExplicitAutograd")
def conv_window(x: Tensor, state: Tensor, lengths: Tensor) -> Tensor:
    """The state after lengths[b] inputs: the last width - 1 of the state and those inputs."""
    past = torch.cat([state, x], 1)
    steps = lengths.unsqueeze(1) + torch.arange(state.shape[1], device=x.device)
    return past[torch.arange(x.shape[0], device=x.device).unsqueeze(1), steps]


@torch.library.impl(_LIBRARY, "rotary", "CompositeExplicitAutograd")
def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (x[j], x[j + D/2]) turned by an angle: x [B, T, heads, D], cos and sin [B, T, D/2]."""
    first, second = x.chunk(2, -1)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


@torch.library.impl(_LIBRARY, "cache_append", "CompositeExplicitAutograd")
def cache_append(cache: Tensor, x: Tensor, position: Tensor, lengths: Tensor) -> Tensor:
    """The cache [B, G, S, D] with the first lengths[b] of x [B, T, G, D] from position[b] on."""
    cache = cache.clone()
    for row, new, start, count in zip(cache, x, position, lengths, strict=True):
        row[:, start : start + count] = new[:count].transpose(0, 1)
    return cache


@torch.library.impl(_LIBRARY, "attention", "CompositeExplicitAutograd")
def attention(q: Tensor, keys: Tensor, values: Tensor, position: Tensor, scale: float) -> Tensor:
    """Causal, over caches [B, G, S, D] that hold the new positions too: q [B, T, heads, D]."""
    new = position.unsqueeze(1) + torch.arange(q.shape[1], device=q.device)
    seen = torch.arange(keys.shape[2], device=q.device) <= new.unsqueeze(2)
    y = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2), keys, values, seen.unsqueeze(1), scale=scale, enable_gqa=True
    )
    return y.transpose(1, 2)


@torch.library.register_fake("mmc::layer", lib=_LIBRARY)
def _as_it_went_in(through: list[Tensor], given: list[Tensor], path: str) -> list[Tensor]:
    """Stands for a layer of a model while the rest is traced: one trace serves equal layers.

    through: x and the layer's states, which come out with the shapes that they had.
    given: what it only reads.  path: names the layer and its trace.  There is no eager form.
    """
    return [torch.empty_like(x) for x in through]


@torch.library.register_fake("mmc::round_half_away", lib=_LIBRARY)
def _like_x(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("mmc::take_position", lib=_LIBRARY)
def _one_position(x: Tensor, index: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], 1, *x.shape[2:]))


@torch.library.register_fake("mmc::causal_conv", lib=_LIBRARY)
def _convolved(x: Tensor, state: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("mmc::conv_window", lib=_LIBRARY)
def _window(x: Tensor, state: Tensor, lengths: Tensor) -> Tensor:
    return torch.empty_like(state)


@torch.library.register_fake("mmc::rotary", lib=_LIBRARY)
def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("mmc::cache_append", lib=_LIBRARY)
def _appended(cache: Tensor, x: Tensor, position: Tensor, lengths: Tensor) -> Tensor:
    return torch.empty_like(cache)


@torch.library.register_fake("mmc::attention", lib=_LIBRARY)
def _attended(q: Tensor, keys: Tensor, values: Tensor, position: Tensor, scale: float) -> Tensor:
    return torch.empty_like(q)
