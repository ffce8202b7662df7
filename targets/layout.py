"""What the planner, the kernels and the weights file agree on about memory."""

from __future__ import annotations

ALIGNMENT = 64
"""Bytes; every pointer that a kernel gets is a multiple of it: the width of the widest vector."""

INT8_ROW_BYTES = 320
"""The rows of an int8 tensor start at multiples of this, and the bytes in between are zero.

A multiple of 64, so that rows are aligned, and of 20 and 16, so that both packed layouts of ternary
weights (`mmc.ir.packing`) end on a whole block.
"""


def aligned(size: int) -> int:
    """The size rounded up to a multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def int8_row_bytes(columns: int) -> int:
    """Bytes from one row of an int8 tensor to the next."""
    return -(-columns // INT8_ROW_BYTES) * INT8_ROW_BYTES
