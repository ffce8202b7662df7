# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The kernels that multiply, by the rows of activations that they are for.

    few       dp4a     one row of q; a block for each tile of 16 rows of weights
    two                two rows
    some      mma      8 rows of q; the warps of a block share the columns
    several            32 rows of q
    many      wgmma    128 rows of q, and as many of weights as leave no processor idle
    hundreds           the same, for up to 768 rows of q
    most               the same, for more

wgmma is there on sm_90a; elsewhere the same kernels run mma, and so do the first two at 1.6 bits.
All give the exact int32 sums, whatever the order.  They are templates in product_few.cuh,
product_some.cuh and product_many.cuh.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.targets.cuda.code import DeviceKernel, do, make_kernel
from mmc.targets.cuda.ternary import PARAMETERS, STEP_VECTORS, Matrix
from mmc.targets.cuda.tuning import COPY_WARPS, ByBlock, ByWarps, Few, Form

FEW_ROWS = 2

_WARP = 32
_PROCESSORS = 132
"""As many as a large GPU has."""

_BUSY = 0.6
"""Of the processors: with fewer blocks than these, smaller blocks are faster."""


def _few(matrix: Matrix, rows: int = 1) -> Form:
    """More warps for long rows, as long as each has some steps, and for digits of 1.6 bits."""
    steps = -(-matrix.vectors // STEP_VECTORS)
    if matrix.layout == "2bit" and steps <= 24:
        return Few(rows, 4)
    return Few(rows, 16 if matrix.layout == "2bit" and steps <= 64 and rows == 1 else 8)


def _some(matrix: Matrix) -> Form:
    """More copies under way where a processor has several blocks one after the other.

    Digits of 1.6 bits take longest: with several tiles a warp has more of them to make at a time.
    """
    if matrix.layout == "1.6bit":
        return ByWarps(min((1, 2, 3, 4), key=lambda tiles: _turns(matrix, tiles, 0.75)), 8, 8, 4)
    if matrix.tiles < 6 * _PROCESSORS:
        return ByWarps(1, 8, 8, 4)
    return ByWarps(1, 8, 8 if _is_long(matrix) else 4, 6)


def _several(matrix: Matrix) -> Form:
    """The larger the matrix, the more of its rows share what is read of q."""
    each = matrix.tiles / _PROCESSORS
    if each > 5:
        stages = 8 if matrix.layout == "2bit" else 4
        return ByBlock(1 if each < 7 else 2 if each < 9 else 4, 32, stages, 1 + (each < 9))
    reading = 0.5 if matrix.vectors >= 16 * STEP_VECTORS else 0
    tiles = min((1, 2, 3), key=lambda tiles: _turns(matrix, tiles, reading))
    return ByWarps(tiles, 32, 8, 2) if tiles == 3 and _is_long(matrix) else ByWarps(tiles, 32, 4, 4)


def _turns(matrix: Matrix, tiles: int, reading: float) -> float:
    """About the work of a processor, where a block has so many tiles: they, and reading q."""
    return math.ceil(-(-matrix.tiles // tiles) / _PROCESSORS) * (tiles + reading)


def _is_long(matrix: Matrix) -> bool:
    """Whether eight warps have enough columns."""
    return matrix.vectors >= 32 * STEP_VECTORS


def _many(rows: int) -> Callable[[Matrix], Form]:
    """The largest blocks that keep the processors busy with so many rows."""

    def rule(matrix: Matrix) -> Form:
        for form in (ByBlock(4, 128, 4, resident=1, registers=112), ByBlock(2, 128, 4, resident=1)):
            if -(-matrix.tiles // form.tiles) * rows // 128 >= _BUSY * _PROCESSORS:
                return form
        return ByBlock(1, 128, 4, resident=2)

    return rule


def emit(form: Form, matrix: Matrix, name: str) -> DeviceKernel:
    """The kernel of a form."""
    if isinstance(form, Few):
        return _call("multiply_few", form, matrix, name, (form.warps, form.rows))
    if isinstance(form, ByWarps):
        sizes = form.tiles, form.rows, form.warps, form.stages
        return _call("multiply_by_warps", form, matrix, name, sizes, 1)
    sizes = form.groups, form.rows, form.stages, COPY_WARPS, form.registers
    return _call("multiply_by_block", form, matrix, name, sizes, form.resident)


def _call(
    function: str, form: Form, matrix: Matrix, name: str, sizes: tuple[int, ...],
    resident: int | None = None,
) -> DeviceKernel:  # fmt: skip
    """A kernel that is one call of a template."""
    shape = matrix.n, matrix.vectors, matrix.q_words * 4, matrix.words
    given = ", ".join(map(str, (*shape, *sizes)))

    def body(block: Any, thread: Any, w: Any, q: Any, acc: Any, rows: Any) -> None:
        start = (T.address_of(buffer[0]) for buffer in (w, q, acc))
        do(f"mmc::{function}<{given}>", *start, rows, block)

    return make_kernel(
        name, PARAMETERS, form.warps * _WARP, body, shared=form.shared(matrix.words),
        resident=resident, waits=isinstance(form, Few),
    )  # fmt: skip


def key(kind: str, matrix: Matrix) -> str:
    """The name of a product of a kind with a matrix, in what was tuned."""
    return f"{kind} {matrix}"


@dataclass(frozen=True)
class Kind:
    """A kind of product: the rule for its form, and for how many rows of q it is used."""

    name: str
    rule: Callable[[Matrix], Form]
    most_rows: int | None


KINDS = (
    Kind("few", _few, 1),
    Kind("two", lambda matrix: _few(matrix, 2), FEW_ROWS),
    Kind("some", _some, 8),
    Kind("several", _several, 64),
    Kind("many", _many(128), 256),
    Kind("hundreds", _many(512), 768),
    Kind("most", _many(2048), None),
)
