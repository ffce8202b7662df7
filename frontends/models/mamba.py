"""Mamba: a selective state space (arXiv:2312.00752), as transformers' models/mamba computes it.

State goes in and comes out; padding is on the right.  Everything is float32, so `residual_in_fp32`
and `use_mambapy` change nothing, and `time_step_min` and its sisters only matter for training.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmc.frontends.models.bit_linear import RmsNorm
from mmc.frontends.models.causal_lm import BATCH, TIME, B, Given, T
from mmc.frontends.models.config_fields import ConfigFields
from mmc.frontends.models.recurrence import recurrence, within

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "swish": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "relu": torch.relu,
}
"""Behind the convolution; the gate is always SiLU."""


@dataclass(frozen=True)
class MambaConfig:
    """The keys of config.json; inner_size is `expand` times the hidden size."""

    vocab_size: int
    hidden_size: int
    inner_size: int
    state_size: int
    num_hidden_layers: int
    conv_kernel: int
    time_step_rank: int
    layer_norm_epsilon: float
    hidden_act: str
    use_bias: bool
    use_conv_bias: bool
    tie_word_embeddings: bool

    @staticmethod
    def parse(values: Mapping[str, object], source: str = "config.json") -> MambaConfig:
        """Raises MmcError naming the key that is missing, of the wrong type, or impossible."""
        fields = ConfigFields(values, source)
        hidden = fields.whole("hidden_size")
        automatic = values.get("time_step_rank", "auto") == "auto"
        return MambaConfig(
            vocab_size=fields.whole("vocab_size"),
            hidden_size=hidden,
            inner_size=fields.whole("expand", 2) * hidden,
            state_size=fields.whole("state_size", 16),
            num_hidden_layers=fields.layers(),
            conv_kernel=fields.whole("conv_kernel", 4, least=2),
            time_step_rank=-(-hidden // 16) if automatic else fields.whole("time_step_rank"),
            layer_norm_epsilon=fields.real("layer_norm_epsilon", 1e-5),
            hidden_act=fields.choice("hidden_act", tuple(ACTIVATIONS), "silu"),
            use_bias=fields.flag("use_bias", False),
            use_conv_bias=fields.flag("use_conv_bias", True),
            tie_word_embeddings=fields.flag("tie_word_embeddings", True),
        )


class Conv(nn.Module):
    """Depthwise causal convolution: x [B, T, D], state [B, width - 1, D]."""

    def __init__(self, channels: int, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, width))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def forward(self, x: Tensor, state: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.ops.mmc.causal_conv(x, state, self.weight.squeeze(1), self.bias)
        return y, torch.ops.mmc.conv_window(x, state, lengths)


class Mixer(nn.Module):
    """Its states are what the convolution remembers, and h [B, state size N, inner size D]."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        hidden, inner, rank = config.hidden_size, config.inner_size, config.time_step_rank
        self.sizes = [rank, config.state_size, config.state_size]
        self.activation = ACTIVATIONS[config.hidden_act]
        self.in_proj = nn.Linear(hidden, 2 * inner, config.use_bias)
        self.conv1d = Conv(inner, config.conv_kernel, config.use_conv_bias)
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, config.state_size))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, hidden, config.use_bias)

    def forward(
        self, x: Tensor, inside: Tensor, lengths: Tensor, window: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, gate = self.in_proj(x).chunk(2, -1)
        x, window = self.conv1d(x, window, lengths)
        x = self.activation(x)
        step, b, c = self.x_proj(x).split(self.sizes, -1)
        step = nn.functional.softplus(self.dt_proj(step)) * inside  # after no time nothing changed
        decay = (step.unsqueeze(2) * -self.A_log.t().exp()).exp()
        h, hs = recurrence(h, decay, (step * x).unsqueeze(2) * b.unsqueeze(3))
        y = (hs * c.unsqueeze(3)).sum(2) + self.D * x
        return self.out_proj(y * nn.functional.silu(gate)), window, h


class Layer(nn.Module):
    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = RmsNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = Mixer(config)

    def forward(
        self, x: Tensor, inside: Tensor, lengths: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        mixed, *after = self.mixer(self.norm(x), inside, lengths, *state)
        return x + mixed, *after


class Trunk(nn.Module):
    """Ids i64[B, T] to the last layer's normalised output [B, T, hidden]."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm_f = RmsNorm(config.hidden_size, config.layer_norm_epsilon)

    def forward(
        self, ids: Tensor, lengths: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        x, inside, made = self.embeddings(ids), within(ids, lengths), []
        for n, layer in enumerate(self.layers):
            x, *state = layer(x, inside, lengths, *states[2 * n : 2 * n + 2])
            made += state
        return self.norm_f(x), made


class MambaForCausalLM(nn.Module):
    """(ids i64[B, T], lengths i64[B], *states) -> (logits f32[B, T, V], *new states).

    Positions from lengths[b] on are padding: they change no state.  The states: `state_shapes`.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight

    def forward(self, ids: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        x, made = self.backbone(ids, lengths, states)
        return self.lm_head(x), *made

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    def given(self, layer: int) -> list[Given | None]:
        """Which positions are not padding, and the lengths."""
        inside = Given(torch.ones(BATCH, TIME, 1, dtype=torch.bool), {0: B, 1: T})
        return [inside, Given(torch.ones(BATCH, dtype=torch.int64), {0: B})]

    @property
    def state_types(self) -> dict[str, torch.dtype]:
        return {}

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape, without the batch."""
        config, shapes = self.config, dict[str, tuple[int, ...]]()
        for n in range(config.num_hidden_layers):
            path = f"backbone.layers.{n}.mixer"
            shapes[f"{path}.conv1d.state"] = (config.conv_kernel - 1, config.inner_size)
            shapes[f"{path}.h"] = (config.state_size, config.inner_size)
        return shapes
