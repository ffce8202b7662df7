"""Every operation by mnemonic: importing this module imports every family."""

from collections.abc import Mapping

from mmc.ir.op import Op
from mmc.ir.ops import (
    attention,
    fixed,
    fixed_attention,
    fixed_gates,
    int4,
    linear,
    logic,
    norm,
    pointwise,
    recurrence,
    reduce,
    shape,
    source,
    ternary,
)

FAMILIES = (
    source, pointwise, logic, reduce, shape, linear, norm, ternary, int4, recurrence, attention,
    fixed, fixed_attention, fixed_gates,
)  # fmt: skip

OPERATIONS: Mapping[str, type[Op]] = Op.registry

RECORDS: Mapping[str, type] = {"absmax": ternary.AbsMax}
"""Attributes with fields of their own, by the name that the text form gives them."""
