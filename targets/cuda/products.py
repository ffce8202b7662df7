# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The kernels that multiply, by the rows of activations that they are for.

    few       dp4a     a block for each tile of 16 rows of weights and each row of q
    some      mma      8 rows of q; the warps of a block share the columns
    several            32 rows of q
    many      wgmma    128 rows of q and 64 of weights
    most      wgmma    128 rows of q and 256 of weights

wgmma is there on sm_90a; elsewhere the same kernels run mma.  All give the exact int32 sums,
whatever the order.  What runs on tensor cores is in product_some.cuh and product_many.cuh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.targets.cuda.code import DeviceKernel, do, make_kernel
from mmc.targets.cuda.ternary import PARAMETERS, Matrix, few
from mmc.targets.cuda.tuning import COPY_WARPS, ByBlock, ByWarps, Dots, Form

FEW_ROWS = 2

_WARP = 32
_PROCESSORS = 100
"""About as many as a large GPU has."""


def _some(matrix: Matrix) -> Form:
    """More copies under way where a processor has several blocks one after the other."""
    return ByWarps(1, 8, 8, 6 if matrix.tiles >= 8 * _PROCESSORS else 4)


def _several(matrix: Matrix) -> Form:
    """The larger the matrix, the more of its rows share what is read of q."""
    if matrix.tiles >= 8 * _PROCESSORS:
        return ByBlock(2, 32, 8, resident=2)
    if matrix.tiles >= 4 * _PROCESSORS:
        return ByWarps(3, 32, 4, 4)
    if matrix.tiles >= 3 * _PROCESSORS:
        return ByWarps(3, 32, 8, 2)
    return ByWarps(1, 32, 4, 4)


def emit(form: Form, matrix: Matrix, name: str) -> DeviceKernel:
    """The kernel of a form."""
    if isinstance(form, Dots):
        return few(matrix, name, form.warps)
    if isinstance(form, ByWarps):
        sizes, resident = (form.tiles, form.rows, form.warps, form.stages), 1
        return _call("multiply_by_warps", form, matrix, name, sizes, resident)
    sizes = form.groups, form.rows, form.stages, COPY_WARPS, form.registers
    return _call("multiply_by_block", form, matrix, name, sizes, form.resident)


def _call(
    function: str, form: Form, matrix: Matrix, name: str, sizes: tuple[int, ...], resident: int
) -> DeviceKernel:
    """A kernel that is one call of a template."""
    given = ", ".join(map(str, (matrix.n, matrix.vectors, matrix.q_words * 4, *sizes)))

    def body(block: Any, thread: Any, w: Any, q: Any, acc: Any, rows: Any) -> None:
        start = (T.address_of(buffer[0]) for buffer in (w, q, acc))
        do(f"mmc::{function}<{given}>", *start, rows, block)

    threads = form.warps * _WARP
    return make_kernel(name, PARAMETERS, threads, body, shared=form.shared, resident=resident)


@dataclass(frozen=True)
class Kind:
    """A kind of product: the rule for its form, and for how many rows of q it is used."""

    name: str
    rule: Callable[[Matrix], Form]
    most_rows: int | None


KINDS = (
    Kind("few", lambda matrix: Dots(min(8, -(-matrix.vectors // 8))), FEW_ROWS),
    Kind("some", _some, 8),
    Kind("several", _several, 64),
    Kind("many", lambda _: ByBlock(1, 128, 4, resident=2), 768),
    Kind("most", lambda _: ByBlock(4, 128, 4, resident=1, registers=112), None),
)
