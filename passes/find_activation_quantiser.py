"""Find where activations are rounded to int8, and say exactly how.

q = clamp(round(x * scale), low, high), scale = range / max(max|x|, eps).  Range, bounds, eps,
rounding and granularity differ between released models; all of them become attributes of
`quantize`. (arXiv:2406.02528, section 3.2; the released code's `activation_quant`.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from mmc.ir.graph import Graph
from mmc.ir.op import Op, Value
from mmc.ir.ops.pointwise import Abs, Cast, Clamp, Div, Mul, Round
from mmc.ir.ops.reduce import Max
from mmc.ir.ops.shape import Reshape
from mmc.ir.ops.source import Constant
from mmc.ir.ops.ternary import AbsMax, Dequantize, Quantize
from mmc.ir.types import DType, Shape, TensorType
from mmc.passes.rewrite import Bindings, rule, rule_if


def _scale(x: Value, top: float, eps: float, of: TensorType) -> Div:
    """Range / max(max|x|, eps), one for each token."""
    return Div(Constant(top, of), Clamp(Max(Abs(x), -1, True), eps, None))


def _largest(x: Value, flat: Shape, eps: float) -> Clamp:
    """The largest of the whole tensor, which frontends spell over one flat axis."""
    return Clamp(Max(Reshape(Abs(x), flat), -1, False), eps, None)


def _is_int8(found: Bindings) -> bool:
    low, high = found["low"], found["high"]
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        return False
    whole = all(math.isfinite(b) and b == int(b) for b in (low, high))
    bounded = isinstance(found["eps"], int | float) and found["x"].type.dtype is DType.F32
    return whole and bounded and -128 <= low <= high <= 127


@rule_if(_is_int8)
def round_to_int8(
    x: Value, top: float, eps: float, of: TensorType, mode: str, low: int, high: int
) -> tuple[Value, Value]:
    """An absolute-maximum scale, a rounding and a clamp to int8 are `quantize`."""
    rounded = Clamp(Round(Mul(x, _scale(x, top, eps, of)), mode), low, high)
    q, _ = Quantize(x, AbsMax(top, low, high, eps, mode))
    return rounded >> Cast(q, DType.F32)


def _is_flat_int8(found: Bindings) -> bool:
    return len(found["flat"]) == 1 and _is_int8(found)


@rule_if(_is_flat_int8)
def round_tensor_to_int8(
    x: Value, flat: Shape, top: float, eps: float, of: TensorType, mode: str, low: int, high: int
) -> tuple[Value, Value]:
    """One scale for the whole tensor."""
    scale = Div(Constant(top, of), _largest(x, flat, eps))
    q, _ = Quantize(x, AbsMax(top, low, high, eps, mode, "tensor"))
    return Clamp(Round(Mul(x, scale), mode), low, high) >> Cast(q, DType.F32)


@rule_if(_is_flat_int8)
def range_over_tensor_to_int8(
    x: Value, flat: Shape, top: float, eps: float, of: TensorType, mode: str, low: int, high: int
) -> tuple[Value, Value]:
    """x * range / largest is x * (range / largest) but for one rounding."""
    scaled = Div(Mul(x, Constant(top, of)), _largest(x, flat, eps))
    q, _ = Quantize(x, AbsMax(top, low, high, eps, mode, "tensor"))
    return Clamp(Round(scaled, mode), low, high) >> Cast(q, DType.F32)


@rule_if(_is_int8)
def range_over_token_to_int8(
    x: Value, top: float, eps: float, of: TensorType, mode: str, low: int, high: int
) -> tuple[Value, Value]:
    """The same with one scale for each token."""
    scaled = Div(Mul(x, Constant(top, of)), Clamp(Max(Abs(x), -1, True), eps, None))
    q, _ = Quantize(x, AbsMax(top, low, high, eps, mode))
    return Clamp(Round(scaled, mode), low, high) >> Cast(q, DType.F32)


@rule
def over_its_tensor_scale(
    x: Value, flat: Shape, top: float, eps: float, of: TensorType, low: int, high: int, mode: str
) -> tuple[Value, Value]:
    """As `over_its_scale`, with one step for the whole tensor."""
    q, s = Quantize(x, AbsMax(top, low, high, eps, mode, "tensor"))
    scale = Div(Constant(top, of), _largest(x, flat, eps))
    return Div(Cast(q, DType.F32), scale) >> Dequantize(q, s)


@rule
def over_its_scale(
    x: Value, top: float, eps: float, of: TensorType, low: int, high: int, mode: str
) -> tuple[Value, Value]:
    """Q / scale is q times the step that `quantize` returns."""
    q, s = Quantize(x, AbsMax(top, low, high, eps, mode))
    return Div(Cast(q, DType.F32), _scale(x, top, eps, of)) >> Dequantize(q, s)


@rule_if(lambda found: found["q"].type.dtype is DType.I8)
def there_and_back(q: Value) -> tuple[Value, Value]:
    """Every int8 is a float: the cast to floats and back changes nothing."""
    return Cast(Cast(q, DType.F32), DType.I8) >> q


RULES = (
    round_to_int8, round_tensor_to_int8, range_over_token_to_int8, range_over_tensor_to_int8,
    over_its_scale, over_its_tensor_scale, there_and_back,
)  # fmt: skip


def leftovers(graph: Graph) -> Iterator[tuple[Op, str]]:
    for op in graph:
        if isinstance(op, Round):
            yield (
                op,
                "rounds, but not as clamp(round(x * range / max(max|x|, eps)), low, high): kept",
            )
