"""Write a Llama with random ternary weights for llama-bench: the peer of our random models.

    python benchmarks/make_llama_gguf.py 1.3b tq2_0 build/llama-1.3b-tq2_0.gguf

Needs the package gguf.  The digits are random and the same for every type; norms are F32, embedding
and output Q4_0, or F16 in a file of type f16, unless --outer says otherwise.  Shapes: width, layers
and vocabulary of `make_random_model.py`, whose parameters it matches; 2b-4t has the heads and the
tied output of BitNet-b1.58-2B-4T.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
from make_random_model import BITNET, GROUPS, HEAD, SHAPES, intermediate_size

TYPES = {
    "tq2_0": gguf.GGMLQuantizationType.TQ2_0,
    "tq1_0": gguf.GGMLQuantizationType.TQ1_0,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
    "f16": gguf.GGMLQuantizationType.F16,
}


def rows_of(
    random: np.random.Generator, n: int, k: int, kind: gguf.GGMLQuantizationType
) -> np.ndarray:
    """n rows of k random weights, quantised by gguf itself a few rows at a time."""
    parts: list[np.ndarray] = []
    for start in range(0, n, 1024):
        count = min(1024, n - start)
        weights = random.integers(-1, 2, (count, k)).astype(np.float32) * np.float32(0.02)
        parts.append(gguf.quantize(weights, kind))
    return np.concatenate(parts)


def key_heads(width: int, layers: int, vocab: int) -> int:
    """Heads of keys and values."""
    return GROUPS if (width, layers, vocab) == BITNET else width // HEAD


def header(path: Path, width: int, layers: int, vocab: int) -> gguf.GGUFWriter:
    """A file that knows its shape and has no tensors yet."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(intermediate_size(width))
    writer.add_head_count(width // HEAD)
    writer.add_head_count_kv(key_heads(width, layers, vocab))
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("no_vocab")
    return writer


def write(
    path: Path, shape: str, kind: gguf.GGMLQuantizationType, outer: gguf.GGMLQuantizationType
) -> None:
    """Write the whole model; outer is the type of embedding and output."""
    width, layers, vocab = SHAPES[shape]
    random = np.random.default_rng(0)
    wide = intermediate_size(width)
    writer = header(path, width, layers, vocab)

    def add(name: str, n: int, k: int, stored: gguf.GGMLQuantizationType) -> None:
        writer.add_tensor(name, rows_of(random, n, k, stored), raw_dtype=stored)

    add("token_embd.weight", vocab, width, outer)
    if SHAPES[shape] != BITNET:  # whose output is the embedding
        add("output.weight", vocab, width, outer)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for n in range(layers):
        for name in ("attn_q", "attn_output"):
            add(f"blk.{n}.{name}.weight", width, width, kind)
        for name in ("attn_k", "attn_v"):
            add(f"blk.{n}.{name}.weight", HEAD * key_heads(width, layers, vocab), width, kind)
        add(f"blk.{n}.ffn_gate.weight", wide, width, kind)
        add(f"blk.{n}.ffn_up.weight", wide, width, kind)
        add(f"blk.{n}.ffn_down.weight", width, wide, kind)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{n}.{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("type", choices=TYPES)
    parser.add_argument("path", type=Path)
    parser.add_argument("--outer", choices=TYPES, help="type of embedding and output")
    given = parser.parse_args()
    outer = given.outer or ("f16" if given.type == "f16" else "q4_0")
    write(given.path, given.shape, TYPES[given.type], TYPES[outer])


if __name__ == "__main__":
    main()
