"""Turn a Transformer into a ternary or MatMul-free model, and measure what it costs."""

from mmc.convert.conversion import convert
from mmc.convert.options import ConvertOptions, TrainingOptions

__all__ = ["ConvertOptions", "TrainingOptions", "convert"]
