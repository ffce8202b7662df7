"""The functions that `mmc export` writes beside the graph, in the text form of ONNX.

They say to every runtime what an operation of the IR computes, step by step and in the same
precision, and to `mmc compile` which operation it was.  Sums of squares are in float64, as the
reference has them; everything else of a quantiser is float32.
"""

from __future__ import annotations

from mmc.frontends.onnx_attention import ATTENTION_FUNCTIONS
from mmc.ir.ops.pointwise import ROUNDINGS

OPSET = 20

_RMS_STATISTIC = """
RmsStatistic (x, eps) => (r) {
  wide = Cast <to: int = 11> (x)
  square = Mul (wide, wide)
  last = Constant <value_ints: ints = [-1]> ()
  mean = ReduceMean <keepdims: int = 1> (square, last)
  shifted = Add (mean, eps)
  root = Sqrt (shifted)
  one = Constant <value = double {1.0}> ()
  inverse = Div (one, root)
  r = CastLike (inverse, x)
}
"""
_MEAN_SQUARE = """
MeanSquare (x) => (y) {
  wide = Cast <to: int = 11> (x)
  square = Mul (wide, wide)
  last = Constant <value_ints: ints = [-1]> ()
  mean = ReduceMean <keepdims: int = 1> (square, last)
  y = CastLike (mean, x)
}
"""
_RMS_NORM = """
RmsNorm (x, eps) => (y) {
  r = mmc.RmsStatistic (x, eps)
  y = Mul (x, r)
}
"""
_RMS_NORM_GAIN = """
RmsNormGain (x, gain, eps) => (y) {
  r = mmc.RmsStatistic (x, eps)
  normal = Mul (x, r)
  y = Mul (normal, gain)
}
"""
_ROUND_HALF_AWAY = """
Round_half_away (x) => (y) {
  size = Abs (x)
  below = Floor (size)
  sign = Sign (x)
  whole = Mul (sign, below)
  rest = Sub (x, whole)
  left = Abs (rest)
  half = Constant <value_float: float = 0.5> ()
  limit = CastLike (half, x)
  far = GreaterOrEqual (left, limit)
  none = Constant <value_float: float = 0.0> ()
  nothing = CastLike (none, x)
  more = Where (far, sign, nothing)
  y = Add (whole, more)
}
"""
_ROUND_HALF_UP = """
Round_half_up (x) => (y) {
  half = Constant <value_float: float = 0.5> ()
  more = CastLike (half, x)
  sum = Add (x, more)
  y = Floor (sum)
}
"""
_ROUND_HALF_EVEN = """
Round_half_even (x) => (y) {
  y = Round (x)
}
"""
_TAKE_POSITION = """
TakePosition (x, index) => (y) {
  axis = Constant <value_ints: ints = [1]> ()
  each = Unsqueeze (index, axis)
  taken = GatherND <batch_dims: int = 1> (x, each)
  y = Unsqueeze (taken, axis)
}
"""
_CONV_WINDOW = """
ConvWindow (x, state, lengths) => (y) {
  past = Concat <axis: int = 1> (state, x)
  width = Shape <start: int = 1, end: int = 2> (state)
  first = Constant <value_int: int = 0> ()
  step = Constant <value_int: int = 1> ()
  count = Squeeze (width)
  steps = Range (first, count, step)
  axis = Constant <value_ints: ints = [1]> ()
  starts = Unsqueeze (lengths, axis)
  positions = Add (starts, steps)
  last = Constant <value_ints: ints = [2]> ()
  each = Unsqueeze (positions, last)
  y = GatherND <batch_dims: int = 1> (past, each)
}
"""
_QUANTIZE = """
Quantize_ROUNDING_GRANULARITY <range, low, high, eps> (x) => (q, s) {
  size = Abs (x)
  axes = Constant <value_ints: ints = AXES> ()
  most = ReduceMax <keepdims: int = 1> (size, axes)
  least = Constant <value_float: float = @eps> ()
  largest = Max (most, least)
  top = Constant <value_float: float = @range> ()
  scale = Div (top, largest)
  scaled = Mul (x, scale)
  whole = mmc.Round_ROUNDING (scaled)
  from = Constant <value_float: float = @low> ()
  to = Constant <value_float: float = @high> ()
  kept = Clip (whole, from, to)
  q = Cast <to: int = 3> (kept)
  one = Constant <value_float: float = 1.0> ()
  s = Div (one, scale)
}
"""
_FACTORED_QUANTIZE = """
FactoredQuantize_ROUNDING <range, low, high, eps> (x, r) => (q, s) {
  size = Abs (x)
  axes = Constant <value_ints: ints = [-1]> ()
  most = ReduceMax <keepdims: int = 1> (size, axes)
  factor = Abs (r)
  normal = Mul (most, factor)
  least = Constant <value_float: float = @eps> ()
  largest = Max (normal, least)
  top = Constant <value_float: float = @range> ()
  scale = Div (top, largest)
  both = Mul (r, scale)
  scaled = Mul (x, both)
  whole = mmc.Round_ROUNDING (scaled)
  from = Constant <value_float: float = @low> ()
  to = Constant <value_float: float = @high> ()
  kept = Clip (whole, from, to)
  q = Cast <to: int = 3> (kept)
  one = Constant <value_float: float = 1.0> ()
  s = Div (one, scale)
}
"""
GRANULARITIES = {"token": "[-1]", "tensor": "[]"}


def _quantize(rounding: str, granularity: str) -> str:
    text = _QUANTIZE.replace("ROUNDING", rounding).replace("GRANULARITY", granularity)
    return text.replace("AXES", GRANULARITIES[granularity])


FUNCTIONS: dict[str, str] = {
    "MeanSquare": _MEAN_SQUARE,
    "RmsStatistic": _RMS_STATISTIC,
    "RmsNorm": _RMS_NORM,
    "RmsNormGain": _RMS_NORM_GAIN,
    "Round_half_away": _ROUND_HALF_AWAY,
    "Round_half_even": _ROUND_HALF_EVEN,
    "Round_half_up": _ROUND_HALF_UP,
    "TakePosition": _TAKE_POSITION,
    "ConvWindow": _CONV_WINDOW,
    **ATTENTION_FUNCTIONS,
    **{
        f"Quantize_{rounding}_{granularity}": _quantize(rounding, granularity)
        for rounding in ROUNDINGS
        for granularity in GRANULARITIES
    },
    **{
        f"FactoredQuantize_{rounding}": _FACTORED_QUANTIZE.replace("ROUNDING", rounding)
        for rounding in ROUNDINGS
    },
}


def with_callees(names: set[str]) -> list[str]:
    """These functions and those that they call, callees first."""
    found: dict[str, None] = {}
    for name in sorted(names):
        called = {word for word in FUNCTIONS if f"= mmc.{word} " in FUNCTIONS[name]}
        found |= dict.fromkeys([*with_callees(called), name])
    return list(found)
