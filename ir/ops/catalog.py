"""Every operation by mnemonic: importing this module imports every family."""

from collections.abc import Mapping

from mmc.ir.op import Op
from mmc.ir.ops import (
    attention,
    fixed,
    linear,
    norm,
    pointwise,
    recurrence,
    reduce,
    shape,
    source,
    ternary,
)

FAMILIES = (source, pointwise, reduce, shape, linear, norm, ternary, recurrence, attention, fixed)

OPERATIONS: Mapping[str, type[Op]] = Op.registry
