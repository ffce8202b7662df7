"""Trainable layers and models whose forward is what the compiler runs (arXiv:2406.02528).

A model's state dict is its checkpoint.  Quantisers compute in float32 also under autocast;
gradients pass them as if they were not there (straight-through).
"""

from mmc.nn.attention import Attention
from mmc.nn.bit_linear import BitLinear
from mmc.nn.glu import TernaryGLU
from mmc.nn.matmul_free import MatMulFreeLM
from mmc.nn.mlgru import MLGRU
from mmc.nn.recurrence import linear_scan
from mmc.nn.transformer import Transformer

__all__ = [
    "MLGRU", "Attention", "BitLinear", "MatMulFreeLM", "TernaryGLU", "Transformer", "linear_scan",
]  # fmt: skip
