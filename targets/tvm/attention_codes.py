"""Attention over caches of codes: a kernel of `attention`, for targets that list this module."""

from __future__ import annotations

from mmc.ir.graph import Graph
from mmc.ir.ops.attention import AttentionCodes
from mmc.ir.ops.source import Input
from mmc.targets.tvm import attention
from mmc.targets.tvm.plan import lone_op

emit = attention.emit


def has_kernel(body: Graph) -> bool:
    """Whether the body is `attention_codes` alone."""
    op = lone_op(body)
    return isinstance(op, AttentionCodes) and all(isinstance(v, Input) for v in op.operands)
