"""litespark-inference on random weights of BitNet-b1.58-2B-4T; its own Python runs this.

    PYTHON litespark_worker.py -p 512 -n 64      rates of one prompt and one generation
    PYTHON litespark_worker.py --check           its version, and how its answers agree

The torch-free path of the package (`litespark_inference.torchless`), int4 embedding and head as it
loads them by default.  Prompts go in pieces of 64 tokens: longer pieces are answered wrongly, which
`--check` shows by comparing the last logits of a prompt with those of the same tokens one by one.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.metadata import version

import numpy as np
from litespark_inference.torchless import kernel, model, runtime
from litespark_inference.torchless.pack import pack_ternary_4_per_byte

WIDTH, LAYERS, HEADS, KV_HEADS, WIDE, VOCAB = 2560, 30, 20, 5, 6912, 128256
PIECE = 64
DIGITS = np.array([sum(d * 4**i for i, d in enumerate(np.unravel_index(n, (3,) * 4)))
                   for n in range(81)], np.uint8)  # fmt: skip
"""The bytes that hold four ternary digits."""

random = np.random.default_rng(0)


def projection(rows: int, columns: int) -> model.PackedProjection:
    """A random matrix, scaled so that activations keep their size."""
    packed = DIGITS[random.integers(0, 81, (rows, columns // 4), np.uint8)]
    sums = np.zeros(rows, np.int32)  # "unused by the current M=1 kernel", and by the batched one
    return model.PackedProjection(packed, sums, columns**-0.5, columns, rows)


def layer() -> model.PackedLayer:
    """One block."""
    kv = WIDTH // HEADS * KV_HEADS
    shapes = {
        "q_proj": (WIDTH, WIDTH), "k_proj": (kv, WIDTH), "v_proj": (kv, WIDTH),
        "o_proj": (WIDTH, WIDTH), "gate_proj": (WIDE, WIDTH), "up_proj": (WIDE, WIDTH),
        "down_proj": (WIDTH, WIDE),
    }  # fmt: skip
    gains = {name: gain(WIDTH) for name in ("input_norm", "post_attn_norm", "attn_sub_norm")}
    matrices = {name: projection(*shape) for name, shape in shapes.items()}
    return model.PackedLayer(**matrices, **gains, ffn_sub_norm=gain(WIDE))


def gain(size: int) -> np.ndarray:
    """Ones in bf16, which is what a checkpoint holds and what its fused kernel takes."""
    return np.full(size, 0x3F80, np.uint16)


def build() -> model.PackedBitNetModel:
    """The whole model; the head is the embedding."""
    config = model.BitNetConfig(
        WIDTH, LAYERS, HEADS, KV_HEADS, WIDE, VOCAB, 4096, 1e-5, 500000.0
    )  # fmt: skip
    return model.PackedBitNetModel(
        config, None, gain(WIDTH), layers=[layer() for _ in range(LAYERS)],
        embed_int4=random.integers(0, 256, (VOCAB, WIDTH // 2), np.uint8),
        embed_scale=np.full(VOCAB, 0.01, np.float32),
    )  # fmt: skip


def prompt(net: model.PackedBitNetModel, state: runtime.InferState, ids: list[int]) -> None:
    """A prompt in pieces that are answered rightly."""
    for start in range(0, len(ids), PIECE):
        runtime.forward_prefill(net, state, ids[start : start + PIECE])


def rates(net: model.PackedBitNetModel, length: int, count: int) -> dict[str, dict[str, float]]:
    """Tokens a second of both tests, behind a run of 16 tokens that warms up."""
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    ids = random.integers(0, VOCAB, length).tolist()
    generate = ids[:1] * count

    def timed(tokens: list[int], single: bool) -> dict[str, float]:
        state = runtime.init_state(net, len(tokens) + 1)
        cpu, wall = time.process_time(), time.perf_counter()
        if single:
            for token in tokens:
                runtime.forward_one(net, state, token)
        else:
            prompt(net, state, tokens)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return {"cpu": len(tokens) * threads / cpu, "wall": len(tokens) / wall}

    timed(ids[:16], False)
    timed(ids[:16], True)
    return {f"pp{length}": timed(ids, False), f"tg{count}": timed(generate, True)}


def agreement(net: model.PackedBitNetModel, length: int) -> float:
    """Correlation of the last logits of one piece with those of the same tokens one by one."""
    ids = random.integers(0, VOCAB, length).tolist()
    state = runtime.init_state(net, length)
    whole = np.array(runtime.forward_prefill(net, state, ids))
    state = runtime.init_state(net, length)
    for token in ids:
        last = runtime.forward_one(net, state, token)
    return float(np.corrcoef(whole, last)[0, 1])


def product_error() -> float:
    """The largest difference of one projection from numpy's, over the largest number."""
    weights = random.integers(-1, 2, (WIDTH, WIDE)).astype(np.int8)
    x = random.integers(-127, 128, WIDE).astype(np.int8)
    found = kernel.matmul_packed_m1(x, pack_ternary_4_per_byte(weights), 1.0, 1.0)
    wanted = weights.astype(np.int32) @ x.astype(np.int32)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=64)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    net = build()
    if given.check:
        facts = {"version": version("litespark-inference"), "product_error": product_error()}
        print(json.dumps({**facts, "agreement": {n: agreement(net, n) for n in (64, 65)}}))
    else:
        print(json.dumps({"rates": rates(net, given.prompt, given.generate)}))


if __name__ == "__main__":
    main()
