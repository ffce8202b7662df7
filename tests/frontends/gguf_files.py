"""Small GGUF files, written by the package gguf; I2_S, which it does not know, is added by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.gguf_writer import TensorInfo
from gguf.quants import quantize

from mmc.frontends.i2s import I2sLayout

SIZES = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": 256,
    "feed_forward_length": 512,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "rope.dimension_count": 64,
}
VOCABULARY = 96
LINEAR = {
    "attn_q": (256, 256),
    "attn_k": (128, 256),
    "attn_v": (128, 256),
    "attn_output": (256, 256),
    "ffn_gate": (512, 256),
    "ffn_up": (512, 256),
    "ffn_down": (256, 512),
}
NORMS = {"attn_norm": 256, "ffn_norm": 256, "attn_sub_norm": 256, "ffn_sub_norm": 512}


def trits_of(shape: Sequence[int], seed: int) -> np.ndarray:
    """Rows differ in how many zeros they hold, as trained ones do."""
    random = np.random.default_rng(seed)
    zeros = random.random((*shape[:-1], 1)) * 0.8
    return np.where(random.random(shape) < zeros, 0, random.choice([-1, 1], shape)).astype(np.int8)


def pack_i2s(trits: np.ndarray, scale: float, layout: I2sLayout = "128") -> np.ndarray:
    """As bitnet.cpp's quantize_i2_s does it on x86 with ACT_PARALLEL, on ARM, and without."""
    codes = (trits + 1).astype(np.uint8)
    run = trits.shape[1] if layout == "rows" else int(layout) // 4
    a, b, c, d = codes.reshape(-1, 4, run).swapaxes(0, 1)
    tail = np.zeros(32, np.uint8)
    tail[:4] = np.array([scale], np.float32).view(np.uint8)
    return np.concatenate([(a << 6 | b << 4 | c << 2 | d).reshape(-1), tail])


def permuted(w: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of query and key rows: columns that RoPE turns together are neighbours."""
    return w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def masters(sub_norms: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float tensors of a tiny model, by llama.cpp's names."""
    random = np.random.default_rng(seed)
    made = {
        "token_embd.weight": random.standard_normal((VOCABULARY, 256)),
        "output_norm.weight": 1 + 0.1 * random.standard_normal(256),
    }
    for n in range(2):
        for name, shape in LINEAR.items():
            made[f"blk.{n}.{name}.weight"] = 0.05 * random.standard_normal(shape)
        for name, width in NORMS.items():
            if sub_norms or "sub" not in name:
                made[f"blk.{n}.{name}.weight"] = 1 + 0.1 * random.standard_normal(width)
    return {name: array.astype(np.float32) for name, array in made.items()}


def write(
    path: Path,
    arch: str,
    tensors: Mapping[str, np.ndarray],
    types: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    i2s: I2sLayout = "128",
) -> Path:
    """A file of float tensors; types: which are stored as another type than F32, and as which."""
    writer = GGUFWriter(path, arch)
    for key, value in SIZES.items():
        writer.add_uint32(f"{arch}.{key}", value)
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32(f"{arch}.rope.freq_base", 10000.0)
    for key, value in (metadata or {}).items():
        add(writer, key, value)
    for name, array in tensors.items():
        kind = (types or {}).get(name, "F32")
        if kind == "I2_S":
            scale = float(np.abs(array).max())
            packed = pack_i2s(np.sign(array).astype(np.int8), scale, i2s)
            info: Any = TensorInfo(list(array.shape), 36, len(packed), packed)  # pyright: ignore[reportArgumentType]
            writer.tensors[-1][name] = info
            continue
        number = GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(array, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: GGUFWriter, key: str, value: Any) -> None:
    """A key with the kind that its value has."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
