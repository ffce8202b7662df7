"""4 bits a number, beside the package gguf's Q4_0."""

from __future__ import annotations

import numpy as np
import pytest

from mmc.ir.ops.int4 import DequantizeInt4, QuantizeInt4
from mmc.ir.ops.source import Input
from mmc.ir.types import DType, TensorType

gguf = pytest.importorskip("gguf")

TABLE = np.random.default_rng(0).normal(size=(40, 96)).astype(np.float32)
TABLE[7, 32:64] = 0


def quantized() -> tuple[np.ndarray, np.ndarray]:
    op = QuantizeInt4(Input("x", TensorType(DType.F32, TABLE.shape)))
    return op.reference(TABLE)


def dequantized(codes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    op = DequantizeInt4(
        Input("codes", TensorType(DType.U8, codes.shape)),
        Input("steps", TensorType(DType.F16, steps.shape)),
    )
    return op.reference(codes, steps)


def test_gguf_reads_the_same_numbers() -> None:
    codes, steps = quantized()
    blocks = np.concatenate(
        [steps[..., None].view(np.uint8), codes.reshape(*steps.shape, 16)], axis=-1
    )
    theirs = gguf.quants.dequantize(blocks.reshape(40, -1), gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(dequantized(codes, steps), theirs)


def test_it_rounds_as_well_as_gguf_does() -> None:
    kind = gguf.GGMLQuantizationType.Q4_0
    theirs = gguf.quants.dequantize(gguf.quants.quantize(TABLE, kind), kind)
    ours = dequantized(*quantized())
    assert np.square(ours - TABLE).mean() <= 1.001 * np.square(theirs - TABLE).mean()
    assert np.array_equal(ours[7, 32:64], np.zeros(32))
