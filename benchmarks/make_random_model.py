"""Write a MatMul-free LM with random weights in the released layout (model_type hgrn_bit).

    python benchmarks/make_random_model.py 370m build/random-370m

Shapes: 370m, 1.3b, 2.7b (the released sizes, arXiv:2406.02528 table 1), or WIDTHxLAYERSxVOCAB such
as 256x4x1000; 2b-4t is BitNet-b1.58-2B-4T (arXiv:2504.12285), a Transformer with ternary weights
(model_type bitnet).  The weights mean nothing; sizes, files and speed are those of a real model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

SHAPES = {
    "370m": (1024, 24, 32000),
    "1.3b": (2048, 24, 32000),
    "2.7b": (2560, 32, 32000),
    "2b-4t": (2560, 30, 128256),
}
BITNET = SHAPES["2b-4t"]
HEAD = 128
"""Columns of an attention head."""
GROUPS = 5
"""Heads of keys and values in BitNet-b1.58-2B-4T."""


def intermediate_size(width: int) -> int:
    """8/3 of the width, rounded up to a multiple of 256, as the released configuration does."""
    return 256 * -(-int(width * 4 * 2 / 3) // 256)


def configuration(width: int, layers: int, vocab: int) -> dict[str, object]:
    """The config.json of a shape."""
    if (width, layers, vocab) == BITNET:
        return bitnet_configuration(width, layers, vocab)
    return {
        "model_type": "hgrn_bit", "vocab_size": vocab, "hidden_size": width,
        "num_hidden_layers": layers, "num_heads": 1, "expand_ratio": 1, "use_short_conv": False,
        "use_lower_bound": True,
        "hidden_ratio": 4, "intermediate_size": intermediate_size(width), "hidden_act": "swish",
        "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "eos_token_id": 2,
    }  # fmt: skip


def bitnet_configuration(width: int, layers: int, vocab: int) -> dict[str, object]:
    """What config.json says of a BitNet; weights are masters in bf16."""
    return {
        "model_type": "bitnet", "vocab_size": vocab, "hidden_size": width,
        "intermediate_size": intermediate_size(width), "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD, "num_key_value_heads": GROUPS,
        "hidden_act": "relu2", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
        "rope_theta": 500000.0, "tie_word_embeddings": True, "eos_token_id": 128001,
        "quantization_config": {
            "quant_method": "bitnet", "linear_class": "autobitlinear",
            "quantization_mode": "online",
        },
    }  # fmt: skip


def bitnet_tensors(width: int, layers: int, vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a BitNet."""
    inner, narrow = intermediate_size(width), GROUPS * HEAD
    yield "model.embed_tokens.weight", (vocab, width)
    for n in range(layers):
        layer = f"model.layers.{n}"
        for name, rows in {"q": width, "k": narrow, "v": narrow, "o": width}.items():
            yield f"{layer}.self_attn.{name}_proj.weight", (rows, width)
        for name in ("gate", "up"):
            yield f"{layer}.mlp.{name}_proj.weight", (inner, width)
        yield f"{layer}.mlp.down_proj.weight", (width, inner)
        for name in ("input_layernorm", "post_attention_layernorm", "self_attn.attn_sub_norm"):
            yield f"{layer}.{name}.weight", (width,)
        yield f"{layer}.mlp.ffn_sub_norm.weight", (inner,)
    yield "model.norm.weight", (width,)


def tensors(width: int, layers: int, vocab: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of the checkpoint."""
    if (width, layers, vocab) == BITNET:
        yield from bitnet_tensors(width, layers, vocab)
        return
    inner = intermediate_size(width)
    yield "model.lower_bounds", (layers, width)
    yield "model.embeddings.weight", (vocab, width)
    for n in range(layers):
        yield f"model.layers.{n}.attn_norm.weight", (width,)
        for name in "ifgo":
            yield f"model.layers.{n}.attn.{name}_proj.weight", (width, width)
            yield f"model.layers.{n}.attn.{name}_proj.norm.weight", (width,)
        yield f"model.layers.{n}.attn.g_norm.weight", (width,)
        yield f"model.layers.{n}.mlp_norm.weight", (width,)
        yield f"model.layers.{n}.mlp.gate_proj.weight", (2 * inner, width)
        yield f"model.layers.{n}.mlp.gate_proj.norm.weight", (width,)
        yield f"model.layers.{n}.mlp.down_proj.weight", (width, inner)
        yield f"model.layers.{n}.mlp.down_proj.norm.weight", (inner,)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (vocab, width)
    yield "lm_head.norm.weight", (width,)


def write(folder: Path, width: int, layers: int, vocab: int, seed: int = 0) -> int:
    """Write config.json and model.safetensors (bf16); returns the number of parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    config = configuration(width, layers, vocab)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    listed = list(tensors(width, layers, vocab))
    header: dict[str, object] = {}
    offset = 0
    for name, shape in listed:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(seed)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in listed:
            file.write(values(random, shape).tobytes())
    return offset // 2


def values(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Gains near one, matrices near zero, as in a trained model."""
    noise = random.standard_normal(shape, np.float32) * np.float32(0.02)
    return (noise + (len(shape) == 1)).astype(ml_dtypes.bfloat16)


def shape_of(text: str) -> tuple[int, int, int]:
    """Width, layers and vocabulary of a name or of WIDTHxLAYERSxVOCAB."""
    width, layers, vocab = SHAPES.get(text.lower()) or map(int, text.split("x"))
    return width, layers, vocab


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("shape", help=f"{', '.join(SHAPES)} or WIDTHxLAYERSxVOCAB")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    count = write(given.folder, *shape_of(given.shape))
    print(f"{given.folder}: {count / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main()
