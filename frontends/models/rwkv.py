"""RWKV-4 (arXiv:2305.13048), as transformers' models/rwkv computes it for inference.

State goes in and comes out; padding is on the right.  Everything is float32.  A state of zeros is
that of an empty text: `max` counts only where `den` is not zero.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan_op

from mmc.frontends.models.causal_lm import BATCH, TIME, B, Given, T
from mmc.frontends.models.config_fields import ConfigFields
from mmc.frontends.models.recurrence import within

LOWEST = -1e38
"""`max` before the first token: nothing weighs anything."""

STATES = ("attention.x", "attention.num", "attention.den", "attention.max", "feed_forward.x")


@dataclass(frozen=True)
class RwkvConfig:
    """The keys of config.json.

    rescale_every: after so many layers x and what is added to it are halved, so that half precision
    would hold them; 0 for never.
    """

    vocab_size: int
    hidden_size: int
    attention_hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    layer_norm_epsilon: float
    rescale_every: int
    tie_word_embeddings: bool

    @staticmethod
    def parse(values: Mapping[str, object], source: str = "config.json") -> RwkvConfig:
        """Raises MmcError naming the key that is missing, of the wrong type, or impossible."""
        fields = ConfigFields(values, source)
        hidden = fields.whole("hidden_size")
        return RwkvConfig(
            vocab_size=fields.whole("vocab_size"),
            hidden_size=hidden,
            attention_hidden_size=fields.whole("attention_hidden_size", hidden),
            intermediate_size=fields.whole("intermediate_size", 4 * hidden),
            num_hidden_layers=fields.layers(),
            layer_norm_epsilon=fields.real("layer_norm_epsilon", 1e-5),
            rescale_every=max(0, fields.whole("rescale_every", 6, least=-(1 << 31))),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        )

    def halvings(self, layer: int) -> int:
        """How often x was halved before a layer."""
        return layer // self.rescale_every if self.rescale_every else 0


class Shift(nn.Module):
    """Mixes each position with the one before: m * x[t] + (1 - m) * x[t-1]; state [B, 1, D].

    That is a depthwise causal convolution of width 2.
    """

    def __init__(self, hidden: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        for name in names:
            setattr(self, f"time_mix_{name}", nn.Parameter(torch.empty(1, 1, hidden)))

    def mixed(self, x: Tensor, state: Tensor) -> list[Tensor]:
        shares = (getattr(self, f"time_mix_{name}").flatten() for name in self.names)
        weights = (torch.stack([1 - share, share], -1) for share in shares)
        return [torch.ops.mmc.causal_conv(x, state, w) for w in weights]


def _step(
    num: Tensor, den: Tensor, top: Tensor,
    k: Tensor, v: Tensor, inside: Tensor, decay: Tensor, first: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Weighted means: num and den are sums of exp(...) * v and of exp(...), divided by exp(top)."""
    most = torch.maximum(top, k + first)
    old, new = torch.exp(top - most), torch.exp(k + first - most)
    y = (old * num + new * v) / (old * den + new)
    most = torch.maximum(top + decay, k)
    old, new = torch.exp(top + decay - most), torch.exp(k - most)
    num = torch.where(inside, old * num + new * v, num)
    den = torch.where(inside, old * den + new, den)
    return num, den, torch.where(inside, most, top), y


def weighted_mean(
    k: Tensor, v: Tensor, inside: Tensor, weights: tuple[Tensor, Tensor], state: list[Tensor]
) -> tuple[Tensor, ...]:
    """WKV y [B, T, D] and the state behind it; weights: decay and first, state: num, den, max."""
    num, den, top = state
    top = torch.where(den == 0, LOWEST, top)
    steps = [each.movedim(1, 0) for each in (k, v, inside)]
    *after, y = scan_op(_step, [num, den, top], steps, weights)
    return y.movedim(0, 1), *after


class Attention(Shift):
    """Time mixing: a mean of v over the past with weights that decay (WKV)."""

    def __init__(self, config: RwkvConfig) -> None:
        hidden, inner = config.hidden_size, config.attention_hidden_size
        super().__init__(hidden, ("key", "value", "receptance"))
        self.time_decay = nn.Parameter(torch.empty(inner))
        self.time_first = nn.Parameter(torch.empty(inner))
        self.key = nn.Linear(hidden, inner, bias=False)
        self.value = nn.Linear(hidden, inner, bias=False)
        self.receptance = nn.Linear(hidden, inner, bias=False)
        self.output = nn.Linear(inner, hidden, bias=False)

    def forward(
        self, x: Tensor, inside: Tensor, lengths: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        before, *means = state
        k, v, r = self.mixed(x, before)
        weights = (-self.time_decay.exp(), self.time_first)
        y, *means = weighted_mean(self.key(k), self.value(v), inside, weights, means)
        y = self.output(self.receptance(r).sigmoid() * y)
        return y, torch.ops.mmc.conv_window(x, before, lengths), *means


class FeedForward(Shift):
    """Channel mixing."""

    def __init__(self, config: RwkvConfig) -> None:
        hidden, wide = config.hidden_size, config.intermediate_size
        super().__init__(hidden, ("key", "receptance"))
        self.key = nn.Linear(hidden, wide, bias=False)
        self.receptance = nn.Linear(hidden, hidden, bias=False)
        self.value = nn.Linear(wide, hidden, bias=False)

    def forward(self, x: Tensor, lengths: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        k, r = self.mixed(x, before)
        y = self.receptance(r).sigmoid() * self.value(self.key(k).relu().square())
        return y, torch.ops.mmc.conv_window(x, before, lengths)


class Layer(nn.Module):
    def __init__(self, config: RwkvConfig, first: bool) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.layer_norm_epsilon
        self.pre_ln = nn.LayerNorm(hidden, eps) if first else nn.Identity()
        self.ln1, self.ln2 = nn.LayerNorm(hidden, eps), nn.LayerNorm(hidden, eps)
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self, x: Tensor, inside: Tensor, lengths: Tensor, scale: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        x = self.pre_ln(x)
        mixed, *kept = self.attention(self.ln1(x), inside, lengths, state[:4])
        x = x + scale * mixed
        mixed, before = self.feed_forward(self.ln2(x), lengths, state[4])
        return x + scale * mixed, *kept, before


class Trunk(nn.Module):
    """Ids i64[B, T] to the last layer's normalised output [B, T, hidden]."""

    def __init__(self, config: RwkvConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(
            Layer(config, first=n == 0) for n in range(config.num_hidden_layers)
        )
        self.ln_out = nn.LayerNorm(config.hidden_size)

    def forward(
        self, ids: Tensor, lengths: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        x, inside, made = self.embeddings(ids), within(ids, lengths), []
        halvings, each = self.config.halvings, len(STATES)
        for n, layer in enumerate(self.blocks):
            scale = x.new_full((), 0.5 ** halvings(n))
            x, *state = layer(x, inside, lengths, scale, *states[each * n : each * (n + 1)])
            x = x * 0.5 if halvings(n + 1) > halvings(n) else x
            made += state
        return self.ln_out(x), made


class RwkvForCausalLM(nn.Module):
    """(ids i64[B, T], lengths i64[B], *states) -> (logits f32[B, T, V], *new states).

    Positions from lengths[b] on are padding: they change no state.  The states: `state_shapes`.
    """

    def __init__(self, config: RwkvConfig) -> None:
        super().__init__()
        self.config = config
        self.rwkv = Trunk(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.head.weight = self.rwkv.embeddings.weight

    def forward(self, ids: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        x, made = self.rwkv(ids, lengths, states)
        return self.head(x), *made

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    def given(self, layer: int) -> list[Given | None]:
        """Which positions are not padding, the lengths, and the scale of what is added to x."""
        inside = Given(torch.ones(BATCH, TIME, 1, dtype=torch.bool), {0: B, 1: T})
        lengths = Given(torch.ones(BATCH, dtype=torch.int64), {0: B})
        return [inside, lengths, Given(torch.ones(()))]

    @property
    def state_types(self) -> dict[str, torch.dtype]:
        return {}

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape, without the batch."""
        config, shapes = self.config, dict[str, tuple[int, ...]]()
        for n in range(config.num_hidden_layers):
            for name in STATES:
                width = config.attention_hidden_size
                shape = (1, config.hidden_size) if name.endswith(".x") else (width,)
                shapes[f"rwkv.blocks.{n}.{name}"] = shape
        return shapes
