"""The configuration of a Transformer in the manner of Llama, read strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from mmc.errors import MmcError
from mmc.frontends.models.config_fields import ConfigFields
from mmc.ir.types import DType

ACTIVATIONS = ("silu", "swish", "relu2")
"""Of the gate; relu2 is the square of relu."""

MOST_COLUMNS = 1 << 16
"""Of a head."""

_DTYPES = {"float32": "F32", "bfloat16": "BF16"}


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: theta, and how frequencies are stretched for long contexts.

    kind: "default", "linear" (divided by factor), or "llama3" (long waves are divided, short ones
    stay, between `low` and `high` it is mixed, for what was trained with `original` positions).
    factors: what each frequency is divided by besides (GGUF).
    dtype: "bfloat16" where the frequencies are rounded to it, as they are in a module that was cast
    as a whole; transformers keeps them in float32.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192
    factors: tuple[float, ...] = ()
    dtype: str = "float32"

    def frequencies(self, width: int) -> np.ndarray:
        """Radians per position f32[width / 2] of a head."""
        powers = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
        plain = np.float32(1) / np.float32(self.theta) ** powers
        if self.kind == "llama3":
            waves = self.original * plain / (2 * math.pi)  # in the original context
            kept = np.clip((waves - self.low) / (self.high - self.low), 0, 1)
            plain = kept * plain + (1 - kept) * plain / self.factor
        plain = plain / self.factor if self.kind == "linear" else plain
        if self.factors:
            plain = plain / np.asarray(self.factors, np.float32)
        return plain.astype(DType[_DTYPES[self.dtype]].numpy).astype(np.float32)

    @staticmethod
    def parse(fields: ConfigFields) -> Rope:
        """From `rope_parameters`, or from `rope_theta` and `rope_scaling` in older files."""
        older, own = fields.record("rope_scaling"), fields.record("rope_parameters")
        if older.values and own.values and older.values != own.values:
            raise MmcError("'rope_scaling' and 'rope_parameters' differ", fields.source)
        own = own if own.values else older
        theta = fields if own.absent("rope_theta") else own
        named = "type" if own.absent("rope_type") else "rope_type"
        kind = own.choice(named, ("default", "linear", "llama3"), "default")
        for given in (own, fields):
            if given.values.get("partial_rotary_factor", 1.0) not in (1.0, None):
                raise MmcError("'partial_rotary_factor' is not 1", given.source)
        stretched = kind != "default"
        rope = Rope(
            theta.real("rope_theta", 500000.0 if is_transformers_bitnet(fields) else 10000.0),
            kind,
            own.real("factor") if stretched else 1.0,
            factors=own.reals("factors"),
            dtype=fields.choice("rope_dtype", tuple(_DTYPES), "float32"),
        )
        if kind != "llama3":
            return rope
        low, high = own.real("low_freq_factor"), own.real("high_freq_factor")
        if low >= high:
            raise MmcError(f"'low_freq_factor' is {low}, 'high_freq_factor' is {high}", own.source)
        return replace(
            rope, low=low, high=high, original=own.whole("original_max_position_embeddings")
        )


@dataclass(frozen=True)
class TransformerConfig:
    """The keys of config.json; `rope_dtype` is ours.

    quantised: linear layers are BitLinear, but for those whose path matches `dense`.

    sub_norms: a norm before the output projection, and one before the down projection (BitNet).
    attention_bias: of queries, keys and values; output_bias: of the output projection.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    heads: int
    groups: int
    head_size: int
    activation: str
    rms_norm_eps: float
    rope: Rope
    max_positions: int
    tie_word_embeddings: bool
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    sub_norms: bool
    quantised: bool
    dense: tuple[str, ...] = ()

    def is_dense(self, path: str) -> bool:
        """Whether a linear layer is an ordinary one.  transformers compares as this does."""
        edge = r"(?:(?<=\.)|(?=\.|$))"
        matches = (re.match(f"(?:{p}){edge}", path) or path.endswith(p) for p in self.dense)
        return not self.quantised or any(matches)

    @staticmethod
    def parse(values: Mapping[str, object], source: str = "config.json") -> TransformerConfig:
        """Raises MmcError naming the key that is missing, of the wrong type, or impossible."""
        fields = ConfigFields(values, source)
        bitnet, in_transformers = is_bitnet(fields), is_transformers_bitnet(fields)
        _refuse_other_bits(fields)
        _refuse_window(fields)
        hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
        quantised, dense = _quantisation(fields)
        # Qwen2's layers have these biases by themselves, and no key for them.
        biased, qwen2 = fields.flag("attention_bias", False), values.get("model_type") == "qwen2"
        config = TransformerConfig(
            vocab_size=fields.whole("vocab_size"),
            hidden_size=hidden,
            intermediate_size=fields.whole("intermediate_size"),
            num_hidden_layers=fields.layers(),
            heads=heads,
            groups=fields.whole("num_key_value_heads", heads),
            head_size=fields.whole("head_dim", max(hidden // heads, 1)),
            activation=fields.choice(
                "hidden_act", ACTIVATIONS, "relu2" if in_transformers else "silu"
            ),
            rms_norm_eps=fields.real("rms_norm_eps", 1e-5 if in_transformers else 1e-6),
            rope=Rope.parse(fields),
            max_positions=fields.whole("max_position_embeddings", 2048),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
            attention_bias=biased or qwen2,
            output_bias=biased and not qwen2,
            mlp_bias=fields.flag("mlp_bias", False),
            sub_norms=bitnet,
            quantised=quantised,
            dense=dense,
        )
        config._refuse_impossible(source)
        return config

    def _refuse_impossible(self, source: str) -> None:
        if self.heads % self.groups:
            raise MmcError(
                f"'num_attention_heads' is {self.heads}, not a multiple of "
                f"'num_key_value_heads', {self.groups}",
                source,
            )
        if self.head_size > MOST_COLUMNS:
            raise MmcError(f"heads have {self.head_size} columns: too many", source)
        if self.head_size % 2:
            raise MmcError(f"heads have {self.head_size} columns: RoPE turns pairs", source)
        if len(self.rope.factors) not in (0, self.head_size // 2):
            raise MmcError(
                f"{len(self.rope.factors)} RoPE factors, {self.head_size // 2} expected", source
            )
        if self.quantised and (self.attention_bias or self.mlp_bias):
            raise MmcError("'attention_bias' and 'mlp_bias' go with dense layers only", source)


def is_bitnet(fields: ConfigFields) -> bool:
    return is_transformers_bitnet(fields) or is_1bitllm(fields)


def is_transformers_bitnet(fields: ConfigFields) -> bool:
    return fields.values.get("model_type") == "bitnet"


def is_1bitllm(fields: ConfigFields) -> bool:
    """1bitLLM/bitnet_b1_58-*: BitNet under the model_type llama, with names of its own."""
    named = fields.values.get("architectures")
    return isinstance(named, list) and "BitnetForCausalLM" in cast(list[object], named)


def _refuse_other_bits(fields: ConfigFields) -> None:
    """1bitLLM's layers count their bits."""
    for key, known in (("weight_bits", 1), ("input_bits", 8)):
        if is_1bitllm(fields) and fields.whole(key, known) != known:
            raise MmcError(f"{key!r} is {fields.values[key]}, not {known}", fields.source)


def _refuse_window(fields: ConfigFields) -> None:
    """Qwen2's layers from `max_window_layers` on may see a window alone; Llama's never do."""
    if fields.values.get("model_type") != "qwen2" or not fields.flag("use_sliding_window", False):
        return
    named = fields.values.get("layer_types")
    if isinstance(named, list):
        within = "sliding_attention" in cast(list[object], named)
    else:
        first = fields.whole("max_window_layers", 28, least=0)
        within = first < fields.layers()
    window = fields.whole("sliding_window", 4096)
    if within and window < fields.whole("max_position_embeddings", 2048):
        raise MmcError(
            f"'use_sliding_window': attention in a window of {window} is not known", fields.source,
            f"with a 'max_position_embeddings' of {window} or less every position is seen",
        )  # fmt: skip


def _quantisation(fields: ConfigFields) -> tuple[bool, tuple[str, ...]]:
    """Whether there are BitLinear layers, and what is not one; the head never is by itself."""
    own = fields.record("quantization_config")
    if not own.values:
        if is_transformers_bitnet(fields):
            raise MmcError(
                "'quantization_config' is missing: transformers would round nothing", fields.source,
                'BitNet has {"quant_method": "bitnet", "linear_class": "autobitlinear"}',
            )  # fmt: skip
        return is_1bitllm(fields), ("lm_head",)
    own.choice("quant_method", ("bitnet",))
    if own.flag("use_rms_norm", False):
        raise MmcError("'use_rms_norm' is not known", own.source, "BitLinear without a norm is")
    dense = ("lm_head", *own.texts("modules_to_not_convert"))
    for pattern in dense:
        try:
            re.compile(pattern)
        except re.error as error:
            problem = f"'modules_to_not_convert': {pattern!r} is no pattern: {error}"
            raise MmcError(problem, own.source) from None
    return True, dense
