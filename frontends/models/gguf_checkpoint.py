"""A GGUF file as the checkpoint that a Hugging Face folder is: its keys, names and order of rows.

Keys and tensor names are llama.cpp's (gguf-py, constants.py).  In the architecture `llama` columns
i and half + i of a head, which RoPE turns together, are neighbours: the rows of its query and key
matrices are in another order (llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmc.errors import MmcError
from mmc.frontends.base import Stored
from mmc.frontends.checkpoint import Checkpoint
from mmc.frontends.gguf_file import GgufFile, read_gguf
from mmc.frontends.gguf_tokenizer import tokenizer_json
from mmc.frontends.gguf_values import TERNARY
from mmc.frontends.i2s import layout_named
from mmc.frontends.models.config_fields import ConfigFields
from mmc.ir.types import DType

if TYPE_CHECKING:
    from mmc.frontends.models.bit_linear import Storage

ACTIVATIONS = {
    "llama": "silu", "qwen2": "silu",
    "bitnet": "silu", "bitnet-25": "relu2", "bitnet-b1.58": "relu2",
}  # fmt: skip
"""Architecture to the activation of its MLP, which no key names."""

DENSE = ("llama", "qwen2")
"""Architectures whose matrices are ternary only where their type is; also their model_type."""

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_sub_norm": "self_attn.attn_sub_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_sub_norm": "mlp.ffn_sub_norm",
    "ffn_down": "mlp.down_proj",
}
_FACTORS, _TURNS = "rope_freqs.weight", "attn_rot_embd"


def open_gguf(path: Path, context: int | None = None, i2s: str | None = None) -> Checkpoint:
    """The model in the file; raises MmcError for an architecture that is not in `ACTIVATIONS`.

    A matrix of a ternary type is a BitLinear: int8 activations with one scale a token.  Matrices of
    a bitnet architecture are ternary, whatever type they have.
    """
    file = read_gguf(path, None if i2s is None else layout_named(i2s))
    arch = file.metadata.get("general.architecture")
    if arch not in ACTIVATIONS:
        raise MmcError(
            f"architecture {arch!r} is not known", str(path), f"known: {', '.join(ACTIVATIONS)}"
        )
    named = [replace(each, name=_name(name)) for name, each in file.tensors.items()]
    store = {each.name: each for each in named if _TURNS not in each.name}
    config = _config(file, arch, store)
    if arch == "llama":
        _restore_order(store, config, str(path))
    _apply_scales(store)
    matrices = [name for name in store if name.endswith("_proj.weight")]
    ternary = {_name(name) for name, kind in file.types.items() if kind in TERNARY}
    quantised = [name for name in matrices if arch not in DENSE or name in ternary]
    if quantised:
        dense = [name.removesuffix(".weight") for name in matrices if name not in quantised]
        config["quantization_config"] = {"quant_method": "bitnet", "modules_to_not_convert": dense}
    held: dict[str, Storage] = dict.fromkeys(quantised, "quantised")
    tokenizer = partial(tokenizer_json, file) if "tokenizer.ggml.model" in file.metadata else None
    return Checkpoint(path, config, store, context, held, tokenizer)


def _name(name: str) -> str:
    """The name in a Hugging Face folder; a name that is not known stays."""
    match name.split("."):
        case ["blk", layer, part, kind] if part in NAMES:
            return f"model.layers.{layer}.{NAMES[part]}.{kind}"
        case [part, kind] if part in NAMES:
            return f"{NAMES[part]}.{kind}"
        case _:
            return name


def _config(file: GgufFile, arch: str, store: dict[str, Stored]) -> dict[str, object]:
    """What config.json would say."""
    fields = ConfigFields(file.metadata, str(file.path))
    embedding = store.get("model.embed_tokens.weight")
    if embedding is None or embedding.type.rank != 2:
        raise MmcError("tensor 'token_embd.weight' is missing or no matrix", str(file.path))
    hidden = fields.whole(f"{arch}.embedding_length")
    heads = fields.whole(f"{arch}.attention.head_count")
    width = fields.whole(f"{arch}.attention.key_length", max(hidden // heads, 1))
    _refuse_unsupported(fields, arch, width)
    biased = {name for name in store if name.endswith("_proj.bias")}
    return {
        "model_type": arch if arch in DENSE else "bitnet",
        "hidden_act": ACTIVATIONS[arch],
        "vocab_size": embedding.type.shape[0],
        "hidden_size": hidden,
        "intermediate_size": fields.whole(f"{arch}.feed_forward_length"),
        "num_hidden_layers": fields.whole(f"{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.whole(f"{arch}.attention.head_count_kv", heads),
        "head_dim": width,
        "rms_norm_eps": fields.real(f"{arch}.attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": fields.whole(f"{arch}.context_length"),
        "rope_parameters": _rope(fields, arch, store),
        "tie_word_embeddings": "lm_head.weight" not in store,
        "attention_bias": any(".self_attn." in name for name in biased),
        "mlp_bias": any(".mlp." in name for name in biased),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
    }


def _refuse_unsupported(fields: ConfigFields, arch: str, width: int) -> None:
    if fields.whole(f"{arch}.expert_count", 0, least=0):
        raise MmcError("a mixture of experts is not supported", fields.source)
    if fields.whole(f"{arch}.rope.dimension_count", width) != width:
        raise MmcError("RoPE turns a part of each head only: not supported", fields.source)


def _rope(fields: ConfigFields, arch: str, store: dict[str, Stored]) -> dict[str, object]:
    rope: dict[str, object] = {"rope_theta": fields.real(f"{arch}.rope.freq_base", 10000.0)}
    kind = fields.values.get(f"{arch}.rope.scaling.type", "none")
    if kind != "none":
        rope |= {"rope_type": kind, "factor": fields.values.get(f"{arch}.rope.scaling.factor")}
    if _FACTORS in store:
        rope["factors"] = store.pop(_FACTORS).load().tolist()
    return rope


def _restore_order(store: dict[str, Stored], config: Mapping[str, object], where: str) -> None:
    """Each half of a head together again, in matrices and biases of queries and keys."""
    for name, stored in store.items():
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        part = name.rpartition(".")[0].rpartition(".")[2]
        if part not in heads:
            continue
        count, rows = config[heads[part]], stored.type.shape[0] if stored.type.shape else 1
        if not isinstance(count, int) or not isinstance(rows, int) or rows % (2 * count):
            raise MmcError(f"tensor {name!r} is {stored.type}, with {count} heads", where)
        store[name] = _derived(stored, partial(_halves_together, heads=count))


def _halves_together(array: np.ndarray, heads: int) -> np.ndarray:
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _apply_scales(store: dict[str, Stored]) -> None:
    """A tensor NAME.scale of one element multiplies NAME.weight."""
    for name in [n for n in store if n.endswith("_proj.scale")]:
        weight, scale = f"{name.removesuffix('.scale')}.weight", store[name]
        if weight in store and scale.type.shape in ((), (1,)):
            del store[name]
            scaled = _derived(store[weight], partial(_times, scale=scale))
            store[weight] = replace(scaled, type=scaled.type.with_dtype(DType.F32))


def _times(array: np.ndarray, scale: Stored) -> np.ndarray:
    return array.astype(np.float32) * scale.load().astype(np.float32).reshape(())


def _derived(stored: Stored, change: Callable[[np.ndarray], np.ndarray]) -> Stored:
    return replace(stored, load=lambda: change(stored.load()))
