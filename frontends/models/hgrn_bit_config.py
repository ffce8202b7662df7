"""The configuration of the MatMul-free language model, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmc.errors import MmcError
from mmc.frontends.models.bit_linear import ROUNDINGS, Quantiser
from mmc.frontends.models.config_fields import ConfigFields

GATE_ORDERS = ("released", "hgrn", "paper")
"""released: RMSNorm(g) * SiLU(h).  hgrn: RMSNorm(h) * SiLU(g).  paper: sigmoid(g) * h, no norm."""


@dataclass(frozen=True)
class HgrnBitConfig:
    """The keys of config.json; the last three are ours, by default as in the released code."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_heads: int
    expand_ratio: int
    use_short_conv: bool
    conv_size: int
    share_conv_kernel: bool
    use_lower_bound: bool
    intermediate_size: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    gate_order: str
    bitlinear_eps: float
    rounding: str

    @property
    def inner_size(self) -> int:
        return self.hidden_size * self.expand_ratio

    @property
    def quantiser(self) -> Quantiser:
        return Quantiser(norm_eps=self.bitlinear_eps, rounding=self.rounding)

    @staticmethod
    def parse(values: Mapping[str, object], source: str = "config.json") -> HgrnBitConfig:
        """Raises MmcError naming the key that is missing, of the wrong type, or impossible."""
        fields = ConfigFields(values, source)
        fields.choice("hidden_act", ("swish", "silu"), "swish")
        fields.choice("attn_mode", ("fused_recurrent",), "fused_recurrent")
        hidden = fields.whole("hidden_size")
        config = HgrnBitConfig(
            vocab_size=fields.whole("vocab_size"),
            hidden_size=hidden,
            num_hidden_layers=fields.layers(),
            num_heads=fields.whole("num_heads", 1),
            expand_ratio=fields.whole("expand_ratio", 1),
            use_short_conv=fields.flag("use_short_conv", False),
            conv_size=fields.whole("conv_size", 4, least=2),
            share_conv_kernel=fields.flag("share_conv_kernel", True),
            use_lower_bound=fields.flag("use_lower_bound", True),
            intermediate_size=_intermediate_size(fields, hidden),
            rms_norm_eps=fields.real("rms_norm_eps", 1e-6),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
            gate_order=fields.choice("gate_order", GATE_ORDERS, "released"),
            bitlinear_eps=fields.real("bitlinear_eps", 1e-6),
            rounding=fields.choice("rounding", tuple(ROUNDINGS), "half_away"),
        )
        config._refuse_impossible(source)
        return config

    def _refuse_impossible(self, source: str) -> None:
        if self.hidden_size % self.num_heads:
            raise MmcError(
                f"'hidden_size' is {self.hidden_size}, not a multiple of 'num_heads'",
                source,
                f"'num_heads' is {self.num_heads}",
            )
        if self.use_lower_bound and self.expand_ratio != 1:
            raise MmcError(
                f"'use_lower_bound' needs 'expand_ratio' 1, not {self.expand_ratio}",
                source,
                "lower_bounds has hidden_size columns, the forget gate has more",
            )


def _intermediate_size(fields: ConfigFields, hidden: int) -> int:
    """As given, or two thirds of hidden_ratio * hidden_size, rounded up to 256."""
    if not fields.absent("intermediate_size"):
        return fields.whole("intermediate_size")
    wanted = int(hidden * fields.whole("hidden_ratio", 4) * 2 / 3)
    return 256 * ((wanted + 255) // 256)
