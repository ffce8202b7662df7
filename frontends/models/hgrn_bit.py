"""The MatMul-free language model as released: MLGRU token mixing, ternary GLU (arXiv:2406.02528).

Written after the released code (github.com/ridgerchu/matmulfreellm, mmfreelm/layers/hgrn_bit.py and
mmfreelm/models/hgrn_bit/modeling_hgrn_bit.py), whose output gate is not the paper's:
hgrn_bit_config.py lists the forms.  State goes in and comes out; padding is on the right.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmc.frontends.models.bit_linear import BitLinear, RmsNorm, Storage
from mmc.frontends.models.causal_lm import BATCH, B, Given
from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.frontends.models.recurrence import recurrence


@dataclass(frozen=True)
class Build:
    """What every part is built from.  storage: by parameter name; floats where it names none."""

    config: HgrnBitConfig
    storage: Mapping[str, Storage]

    def linear(self, path: str, inputs: int, outputs: int) -> BitLinear:
        storage = self.storage.get(f"{path}.weight", "master")
        return BitLinear(inputs, outputs, self.config.quantiser, storage)


class ShortConv(nn.Module):
    """Depthwise causal convolution, then SiLU: x [B, T, D], state [B, width - 1, D]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, width))

    def forward(self, x: Tensor, state: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.ops.mmc.causal_conv(x, state, self.weight.squeeze(1))
        return nn.functional.silu(y), torch.ops.mmc.conv_window(x, state, lengths)


class Mixer(nn.Module):
    """The MLGRU; its state is h [B, inner] and what the short convolutions remember."""

    g_norm: RmsNorm
    h_conv1d: ShortConv
    i_conv1d: ShortConv
    f_conv1d: ShortConv

    def __init__(self, build: Build, path: str) -> None:
        super().__init__()
        config = build.config
        self.config = config
        hidden, inner = config.hidden_size, config.inner_size
        self.i_proj = build.linear(f"{path}.i_proj", hidden, inner)
        self.f_proj = build.linear(f"{path}.f_proj", hidden, inner)
        self.g_proj = build.linear(f"{path}.g_proj", hidden, inner)
        for name, channels in conv_names(config):
            setattr(self, name, ShortConv(channels, config.conv_size))
        if config.gate_order != "paper":
            self.g_norm = RmsNorm(inner, config.rms_norm_eps)
        self.o_proj = build.linear(f"{path}.o_proj", inner, hidden)

    def forward(
        self, x: Tensor, lengths: Tensor, lower_bound: Tensor | None, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        h, *windows = state
        x, i, f, windows = self._projections(x, lengths, windows)
        f = f.sigmoid()
        if lower_bound is not None:
            f = lower_bound + (1 - lower_bound) * f
        _, hs = recurrence(h, f, nn.functional.silu(i) * (1 - f))
        h = torch.ops.mmc.take_position(hs, lengths - 1).squeeze(1)
        return self.o_proj(self._gated(self.g_proj(x), hs)), [h, *windows]

    def _projections(
        self, x: Tensor, lengths: Tensor, windows: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """One convolution before i and f (and g), or one after each of i and f."""
        if not windows:
            return x, self.i_proj(x), self.f_proj(x), []
        if self.config.share_conv_kernel:
            x, window = self.h_conv1d(x, windows[0], lengths)
            return x, self.i_proj(x), self.f_proj(x), [window]
        i, i_window = self.i_conv1d(self.i_proj(x), windows[0], lengths)
        f, f_window = self.f_conv1d(self.f_proj(x), windows[1], lengths)
        return x, i, f, [i_window, f_window]

    def _gated(self, g: Tensor, h: Tensor) -> Tensor:
        match self.config.gate_order:
            case "released":
                return self.g_norm(g) * h * h.sigmoid()
            case "hgrn":
                return self.g_norm(h) * nn.functional.silu(g)
            case _:
                return g.sigmoid() * h


def conv_names(config: HgrnBitConfig) -> list[tuple[str, int]]:
    """The short convolutions of a layer, in the order of their states, each with its channels."""
    if not config.use_short_conv:
        return []
    if config.share_conv_kernel:
        return [("h_conv1d", config.hidden_size)]
    return [("i_conv1d", config.inner_size), ("f_conv1d", config.inner_size)]


class Glu(nn.Module):
    def __init__(self, build: Build, path: str) -> None:
        super().__init__()
        hidden, wide = build.config.hidden_size, build.config.intermediate_size
        self.gate_proj = build.linear(f"{path}.gate_proj", hidden, 2 * wide)
        self.down_proj = build.linear(f"{path}.down_proj", wide, hidden)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x).chunk(2, -1)
        return self.down_proj(nn.functional.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, build: Build, path: str) -> None:
        super().__init__()
        config = build.config
        self.attn_norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.attn = Mixer(build, f"{path}.attn")
        self.mlp_norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Glu(build, f"{path}.mlp")

    def forward(
        self, x: Tensor, lengths: Tensor, lower_bound: Tensor | None, *state: Tensor
    ) -> tuple[Tensor, ...]:
        mixed, state = self.attn(self.attn_norm(x), lengths, lower_bound, state)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), *state


class Trunk(nn.Module):
    """Ids i64[B, T] to the last layer's normalised output [B, T, hidden]."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        config = build.config
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.use_lower_bound:
            rows = config.num_hidden_layers
            self.lower_bounds = nn.Parameter(torch.zeros(rows, config.hidden_size))
        paths = [f"model.layers.{n}" for n in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(Layer(build, path) for path in paths)
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, ids: Tensor, lengths: Tensor, states: Iterator[tuple[Tensor, ...]]
    ) -> tuple[Tensor, list[Tensor]]:
        x, made = self.embeddings(ids), []
        for layer, bound, state in zip(self.layers, self.bounds(), states, strict=True):
            x, *state = layer(x, lengths, bound, *state)
            made += state
        return self.norm(x), made

    def bounds(self) -> list[Tensor | None]:
        """The forget gate's lower bound in each layer; there is none in the first."""
        if not hasattr(self, "lower_bounds"):
            return [None] * len(self.layers)
        share = self.lower_bounds.softmax(0)
        bounds = share.cumsum(0) - share[0]
        return [None, *(bounds[n] for n in range(1, len(self.layers)))]


class HgrnBitForCausalLM(nn.Module):
    """(ids i64[B, T], lengths i64[B], *states) -> (logits f32[B, T, V], *new states).

    Positions from lengths[b] on are padding: they change no state.  The states: `state_shapes`.
    """

    def __init__(self, config: HgrnBitConfig, storage: Mapping[str, Storage] | None = None) -> None:
        super().__init__()
        build = Build(config, storage or {})
        self.config = config
        self.model = Trunk(build)
        self.lm_head = build.linear("lm_head", config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embeddings.weight

    def forward(self, ids: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        each = 1 + len(conv_names(self.config))
        groups = (states[n : n + each] for n in range(0, len(states), each))
        x, made = self.model(ids, lengths, groups)
        return self.lm_head(x), *made

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    def given(self, layer: int) -> list[Given | None]:
        """The lengths and the lower bound; the first layer has no bound."""
        bounded = self.config.use_lower_bound and layer > 0
        lengths = Given(torch.ones(BATCH, dtype=torch.int64), {0: B})
        return [lengths, Given(torch.zeros(self.hidden_size)) if bounded else None]

    @property
    def state_types(self) -> dict[str, torch.dtype]:
        return {}

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape, without the batch."""
        shapes: dict[str, tuple[int, ...]] = {}
        for n in range(self.config.num_hidden_layers):
            shapes[f"model.layers.{n}.attn.h"] = (self.config.inner_size,)
            for name, channels in conv_names(self.config):
                width = self.config.conv_size - 1
                shapes[f"model.layers.{n}.attn.{name}.state"] = (width, channels)
        return shapes
