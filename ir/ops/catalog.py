"""Importing this module registers every operation."""

from mmc.ir.ops import linear, norm, pointwise, recurrence, reduce, shape, source, ternary

__all__ = ["linear", "norm", "pointwise", "recurrence", "reduce", "shape", "source", "ternary"]
