"""The ONNX functions of attention with a cache; see `onnx_functions` and `mmc.ir.ops.attention`."""

from __future__ import annotations

_ROTARY = """
Rotary (x, cos, sin) => (y) {
  first, second = Split <axis: int = 3, num_outputs: int = 2> (x)
  heads = Constant <value_ints: ints = [2]> ()
  c = Unsqueeze (cos, heads)
  s = Unsqueeze (sin, heads)
  first_c = Mul (first, c)
  second_s = Mul (second, s)
  left = Sub (first_c, second_s)
  second_c = Mul (second, c)
  first_s = Mul (first, s)
  right = Add (second_c, first_s)
  y = Concat <axis: int = 3> (left, right)
}
"""
_CACHE_APPEND = """
CacheAppend (cache, x, position, lengths) => (y) {
  zero = Constant <value_int: int = 0> ()
  one = Constant <value_int: int = 1> ()
  axis_1 = Constant <value_ints: ints = [1]> ()
  count = Shape <start: int = 1, end: int = 2> (x)
  steps_n = Squeeze (count)
  steps = Range (zero, steps_n, one)
  start = Unsqueeze (position, axis_1)
  target = Add (start, steps)
  given = Unsqueeze (lengths, axis_1)
  counts = Less (steps, given)
  size = Shape <start: int = 2, end: int = 3> (cache)
  below = Less (target, size)
  above = GreaterOrEqual (target, zero)
  within = And (below, above)
  written = And (within, counts)
  pairs = NonZero (written)
  each = Transpose <perm: ints = [1, 0]> (pairs)
  rows = GatherND (x, each)
  held = GatherND (target, each)
  sequence = Gather <axis: int = 1> (each, zero)
  groups = Shape <start: int = 1, end: int = 2> (cache)
  groups_n = Squeeze (groups)
  group = Range (zero, groups_n, one)
  last_two = Constant <value_ints: ints = [1, 2]> ()
  around = Constant <value_ints: ints = [0, 2]> ()
  b_column = Unsqueeze (sequence, last_two)
  g_row = Unsqueeze (group, around)
  s_column = Unsqueeze (held, last_two)
  outer = Shape <start: int = 0, end: int = 2> (rows)
  one_wide = Constant <value_ints: ints = [1]> ()
  wanted = Concat <axis: int = 0> (outer, one_wide)
  b = Expand (b_column, wanted)
  g = Expand (g_row, wanted)
  s = Expand (s_column, wanted)
  where = Concat <axis: int = 2> (b, g, s)
  y = ScatterND (cache, where, rows)
}
"""
_ATTENTION = """
Attention <scale> (q, keys, values, position) => (y) {
  zero = Constant <value_int: int = 0> ()
  one = Constant <value_int: int = 1> ()
  axis_0 = Constant <value_ints: ints = [0]> ()
  axis_1 = Constant <value_ints: ints = [1]> ()
  axis_2 = Constant <value_ints: ints = [2]> ()
  count = Shape <start: int = 1, end: int = 2> (q)
  newest = ReduceMax <keepdims: int = 0> (position)
  grown = Add (newest, count)
  size = Shape <start: int = 2, end: int = 3> (keys)
  known = Min (grown, size)
  k = Slice (keys, axis_0, known, axis_2)
  v = Slice (values, axis_0, known, axis_2)
  batch = Shape <start: int = 0, end: int = 1> (q)
  groups = Shape <start: int = 1, end: int = 2> (keys)
  width = Shape <start: int = 3, end: int = 4> (q)
  heads = Shape <start: int = 2, end: int = 3> (q)
  rest = Constant <value_ints: ints = [-1]> ()
  by_head = Transpose <perm: ints = [0, 2, 1, 3]> (q)
  folded = Concat <axis: int = 0> (batch, groups, rest, width)
  rows = Reshape <allowzero: int = 1> (by_head, folded)
  columns = Transpose <perm: ints = [0, 1, 3, 2]> (k)
  products = MatMul (rows, columns)
  factor = Constant <value_float: float = @scale> ()
  scaled = Mul (products, factor)
  unfolded = Concat <axis: int = 0> (batch, groups, rest, count, known)
  scores = Reshape <allowzero: int = 1> (scaled, unfolded)
  count_n = Squeeze (count)
  steps = Range (zero, count_n, one)
  start = Unsqueeze (position, axis_1)
  now = Add (start, steps)
  row_axes = Constant <value_ints: ints = [1, 2, 4]> ()
  now_each = Unsqueeze (now, row_axes)
  known_n = Squeeze (known)
  past = Range (zero, known_n, one)
  seen = LessOrEqual (past, now_each)
  never = Constant <value_float: float = -inf> ()
  masked = Where (seen, scores, never)
  weights = Softmax <axis: int = -1> (masked)
  joined = Concat <axis: int = 0> (batch, groups, rest, known)
  flat = Reshape <allowzero: int = 1> (weights, joined)
  sums = MatMul (flat, v)
  per_head = Concat <axis: int = 0> (batch, heads, count, width)
  split = Reshape <allowzero: int = 1> (sums, per_head)
  y = Transpose <perm: ints = [0, 2, 1, 3]> (split)
}
"""
_ATTENTION_CODES = """
AttentionCodes <scale> (q, key_codes, key_steps, value_codes, value_steps, position) => (y) {
  axis_0 = Constant <value_ints: ints = [0]> ()
  axis_2 = Constant <value_ints: ints = [2]> ()
  count = Shape <start: int = 1, end: int = 2> (q)
  newest = ReduceMax <keepdims: int = 0> (position)
  grown = Add (newest, count)
  kc = Slice (key_codes, axis_0, grown, axis_2)
  ks = Slice (key_steps, axis_0, grown, axis_2)
  vc = Slice (value_codes, axis_0, grown, axis_2)
  vs = Slice (value_steps, axis_0, grown, axis_2)
  zero = Constant <value_float: float = 128.0> ()
  kf = Cast <to: int = 1> (kc)
  vf = Cast <to: int = 1> (vc)
  kd = Sub (kf, zero)
  vd = Sub (vf, zero)
  keys = Mul (kd, ks)
  values = Mul (vd, vs)
  y = mmc.Attention <scale: float = @scale> (q, keys, values, position)
}
"""

ATTENTION_FUNCTIONS = {
    "Rotary": _ROTARY,
    "CacheAppend": _CACHE_APPEND,
    "Attention": _ATTENTION,
    "AttentionCodes": _ATTENTION_CODES,
}
