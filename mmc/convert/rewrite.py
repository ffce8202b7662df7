"""The model that a Transformer becomes: its config.json, and the weights to begin with.

ternary: every linear layer between embedding and head becomes a BitLinear, attention stays, and a
norm is put before each output and down projection: `bitnet`, which transformers reads too.
matmul-free: attention becomes an MLGRU, and the head a BitLinear: `hgrn_bit` as released.  Where
attention is kept in some layers: `mmc_hybrid`, which this compiler alone reads.

In a MatMul-free layer every BitLinear has a norm of its own.  It takes over the gain of the norm
that the Transformer has before it; the norm in front gets a gain of one, and changes nothing.
"""

# Torch's stubs leave these types unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from mmc.frontends.models.hgrn_bit_config import HgrnBitConfig
from mmc.frontends.models.hybrid_config import LAYER_TYPES, MODEL_TYPE, HybridConfig
from mmc.frontends.models.transformer_config import TransformerConfig
from mmc.nn import MatMulFreeLM, Transformer
from mmc.nn.language_model import LanguageModel

_SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps",
    "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
_ATTENTION = (
    "num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta", "rope_scaling",
    "rope_parameters", "rope_dtype",
)  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """kept: the layers that keep their attention; all of them where `to` is "ternary"."""

    to: str
    kept: tuple[int, ...] = ()
    gate_order: str = "released"


def student_values(values: Mapping[str, object], choices: Choices) -> dict[str, object]:
    """The config.json of what `values`, that of a Transformer, becomes."""
    keys = _SHARED + (_ATTENTION if choices.to == "ternary" or choices.kept else ())
    made = {key: values[key] for key in keys if values.get(key) is not None}
    if choices.to == "ternary":
        return made | {
            "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "silu",
            "tie_word_embeddings": values.get("tie_word_embeddings", False),
            "attention_bias": False, "dtype": "bfloat16",
            "quantization_config": {
                "quant_method": "bitnet", "linear_class": "autobitlinear",
                "quantization_mode": "online", "modules_to_not_convert": ["lm_head"],
            },
        }  # fmt: skip
    made |= {
        "architectures": ["HGRNBitForCausalLM"], "model_type": "hgrn_bit", "hidden_act": "swish",
        "attn_mode": "fused_recurrent", "num_heads": 1, "expand_ratio": 1, "use_short_conv": False,
        "use_lower_bound": True, "tie_word_embeddings": False, "dtype": "bfloat16",
    }  # fmt: skip
    if choices.gate_order != "released":
        made["gate_order"] = choices.gate_order
    if choices.kept:
        layers = range(cast(int, values["num_hidden_layers"]))
        made["layer_types"] = [LAYER_TYPES[n in choices.kept] for n in layers]
        made |= {"model_type": MODEL_TYPE, "architectures": ["MmcHybridForCausalLM"]}
    return made


def build(values: Mapping[str, object], seed: int) -> LanguageModel:
    """The trainable model of a config.json, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if values["model_type"] == "bitnet":
            return Transformer(TransformerConfig.parse(values))
        if values["model_type"] == "hgrn_bit":
            return MatMulFreeLM.of(HgrnBitConfig.parse(values))
        return MatMulFreeLM(HybridConfig.parse(values))


def rounded(teacher: Transformer) -> Transformer:
    """The Transformer with its layers made ternary and nothing else: what training begins below."""
    made = Transformer(replace(teacher.config, quantised=True))
    made.load_state_dict(teacher.state_dict())
    return made.requires_grad_(False)


def initialise(student: LanguageModel, teacher: Transformer, sizes: Mapping[str, float]) -> None:
    """Copy what the student can take over; `sizes` are those of `input_sizes`, or empty."""
    if isinstance(student, Transformer):
        student.load_state_dict(teacher.state_dict(), strict=False)
        state = {f"{name}.weight": size for name, size in _sub_norms(sizes, student)}
    else:
        state = {}
        copied = _copied(student, teacher, sizes)
        for name, tensor in student.state_dict().items():
            if name in copied:
                tensor.copy_(copied[name])
    for name, size in state.items():
        student.state_dict()[name].fill_(size)


def _sub_norms(sizes: Mapping[str, float], student: Transformer) -> list[tuple[str, float]]:
    norms = {"o_proj": "attn_sub_norm", "down_proj": "ffn_sub_norm"}
    found = [(name.rpartition("."), size) for name, size in sizes.items()]
    return [(f"{layer}.{norms[linear]}", size) for (layer, _, linear), size in found]


def _copied(
    student: LanguageModel, teacher: Transformer, sizes: Mapping[str, float]
) -> dict[str, Tensor]:
    """The MatMul-free model's tensors that the Transformer has, by the former's names."""
    given = teacher.state_dict()
    made = {
        "model.embeddings.weight": given["model.embed_tokens.weight"],
        "model.norm.weight": torch.ones_like(given["model.norm.weight"]),
        "lm_head.weight": given["lm_head.weight"],
        "lm_head.norm.weight": given["model.norm.weight"],
    }
    layers: Any = student.get_submodule("model.layers")
    for n, layer in enumerate(layers):
        path = f"model.layers.{n}"
        own = {k.removeprefix(f"{path}."): v for k, v in given.items() if k.startswith(f"{path}.")}
        kept = hasattr(layer.attn, "q_proj")
        mixer = _attention(own) if kept else _recurrence(own, teacher.config)
        for linear in ("self_attn.o_proj", "mlp.down_proj"):
            name = f"{linear.removeprefix('self_')}.norm.weight"
            width = layer.state_dict()[name]
            mixer[name] = torch.full_like(width, sizes.get(f"{path}.{linear}", 1.0))
        made |= {f"{path}.{name}": tensor for name, tensor in (mixer | _mlp(own)).items()}
    return made


def _attention(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made = {f"attn.{p}_proj.weight": own[f"self_attn.{p}_proj.weight"] for p in "qkvo"}
    return made | {f"attn.{p}_proj.norm.weight": own["input_layernorm.weight"] for p in "qkv"}


def _recurrence(own: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """Values become the input, queries the gate; the forget gate starts at random.

    Where heads are not as wide as the model together, these matrices start at random too.
    """
    made = {f"attn.{p}_proj.norm.weight": own["input_layernorm.weight"] for p in "ifg"}
    if config.heads * config.head_size != config.hidden_size:
        return made
    values = own["self_attn.v_proj.weight"].unflatten(0, (config.groups, config.head_size))
    repeated = values.repeat_interleave(config.heads // config.groups, 0).flatten(0, 1)
    return made | {
        "attn.i_proj.weight": repeated,
        "attn.g_proj.weight": own["self_attn.q_proj.weight"],
        "attn.o_proj.weight": own["self_attn.o_proj.weight"],
    }


def _mlp(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        "mlp.gate_proj.weight": torch.cat([own[f"mlp.{p}_proj.weight"] for p in ("gate", "up")]),
        "mlp.gate_proj.norm.weight": own["post_attention_layernorm.weight"],
        "mlp.down_proj.weight": own["mlp.down_proj.weight"],
    }


def input_sizes(teacher: Transformer, ids: Tensor) -> dict[str, float]:
    """The root mean square of what each output and down projection is given; ids i64[B, T].

    The norms that are put before these projections start with such a gain.
    """
    found: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(_: object, inputs: tuple[Tensor, ...]) -> None:
            found[name] = inputs[0].square().mean().sqrt().item()

        return hook

    hooks = [
        module.register_forward_pre_hook(watch(name))
        for name, module in teacher.named_modules()
        if name.endswith((".o_proj", ".down_proj"))
    ]
    with torch.no_grad():
        teacher(ids)
    for hook in hooks:
        hook.remove()
    return found
