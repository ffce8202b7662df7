"""The table of PyTorch operations: name to translation.

A name is "aten.add.Tensor", or "aten.add" for every overload that has no entry of its own.
"""

from __future__ import annotations

from mmc.frontends import (
    aten_attention,
    aten_image,
    aten_linear,
    aten_make,
    aten_pointwise,
    aten_reduce,
    aten_shape,
)
from mmc.frontends.aten_call import Translate

TABLE: dict[str, Translate] = {
    **aten_pointwise.TABLE,
    **aten_reduce.TABLE,
    **aten_shape.TABLE,
    **aten_make.TABLE,
    **aten_linear.TABLE,
    **aten_attention.TABLE,
    **aten_image.TABLE,
}

DROPPED = frozenset(
    {
        "aten._assert_tensor_metadata.default",
        "aten._assert_scalar.default",
        "aten._assert_async.msg",
        "aten.sym_constrain_range_for_size.default",
        "aten.sym_constrain_range.default",
    }
)
"""Checks that torch inserts: what they check is a type in the IR."""


def translation(name: str) -> Translate | None:
    """The entry for a name such as "aten.add.Tensor", or None."""
    return TABLE.get(name) or TABLE.get(name.rpartition(".")[0])
