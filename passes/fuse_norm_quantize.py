"""Fuse normalisation with the quantisation that follows it.

The paper's fused BitLinear (arXiv:2406.02528, section 3.2.1): a row is read once, normalised and
rounded on chip, and written once as int8, instead of being written back in float32 between the
two.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value
from mmc.ir.ops.norm import RmsNorm
from mmc.ir.ops.ternary import AbsMax, Quantize, RmsNormQuantize
from mmc.passes.rewrite import Once, rule


@rule
def norm_then_quantize(x: Value, gain: Value, eps: float, by: AbsMax) -> tuple[Value, Value]:
    """The normalised row is read by the quantiser alone: keep it on chip."""
    return Quantize(Once(RmsNorm(x, gain, eps)), by) >> RmsNormQuantize(x, gain, eps, by)


RULES = (norm_then_quantize,)


def leftovers(graph: Graph) -> Iterator[tuple[Op, str]]:
    for op in graph:
        if isinstance(op, Quantize):
            normed = isinstance(op.x, RmsNorm)
            yield (
                op,
                "the normalised row has other readers" if normed else "its input is not a norm",
            )
