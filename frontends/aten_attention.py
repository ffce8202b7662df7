"""MMC's own operators for attention with a cache (`frontends/models/operators.py`)."""

from __future__ import annotations

from mmc.frontends.aten_call import Call, Translate
from mmc.ir.op import Value
from mmc.ir.ops.attention import Attention, CacheAppend, Rotary


def _rotary(call: Call, x: Value, cos: Value, sin: Value) -> Value:
    return Rotary(x, cos, sin)


def _cache_append(call: Call, cache: Value, x: Value, position: Value, lengths: Value) -> Value:
    return CacheAppend(cache, x, position, lengths)


def _attention(
    call: Call, q: Value, keys: Value, values: Value, position: Value, scale: float
) -> Value:
    return Attention(q, keys, values, position, scale)


TABLE: dict[str, Translate] = {
    "mmc.rotary": _rotary,
    "mmc.cache_append": _cache_append,
    "mmc.attention": _attention,
}
