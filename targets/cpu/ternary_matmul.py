# pyright: basic
"""Ternary matrix product on a CPU: acc[r, n] = sum over k of q[r, k] * t[n, k], exact in int32.

The activations q are int8, the weights t are -1, 0 or 1, packed as `mmc.ir.packing` draws it.  All
kernels multiply with the digits d = t + 1 in {0, 1, 2} and take off the sum of the activation row:
sum of q * t = sum of q * d - sum of q.

The unit of work is a word: four neighbouring columns.  One word of an activation row is spread over
a vector, against the same four columns of the 16 weight rows of a tile:

    digits    row 0: d d d d | row 1: d d d d | ... | row 15: d d d d      64 bytes
    q                q q q q |        q q q q | ... |         q q q q      one word, 16 times
    sums      int32          | int32          | ... | int32                16 lanes = 16 rows

so that no sum runs across lanes.  With few activation rows the time is that of reading the weights;
with many it is that of the dot products.  A kernel holds a path for each and chooses at run time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from mmc.ir.packing import MAX_COLUMNS, Layout, packed_bytes
from mmc.targets.cpu import ternary_avx2, ternary_avx512, ternary_portable
from mmc.targets.cpu.features import Isa
from mmc.targets.cpu.ternary_256 import Maddubs, Vnni
from mmc.targets.cpu.ternary_tile import Matrix
from mmc.targets.tvm.host import Kernel, make_kernel

_WRITE: dict[Isa, Callable[..., None]] = {
    "avx512_vnni": ternary_avx512.write,
    "avx_vnni": ternary_avx2.writer(Vnni()),
    "avx2": ternary_avx2.writer(Maddubs()),
    "portable": ternary_portable.write,
}
"""What writes the statements of a kernel."""

_MAX_PACKED_BYTES = (1 << 31) - (1 << 24)


@functools.cache
def ternary_matmul(n: int, k: int, layout: Layout, isa: Isa) -> Kernel:
    """Return the kernel for `n` weight rows and `k` columns, for any number of activation rows.

    Parameters of the kernel:
        weights  uint8*, `packed_bytes(n, k, layout)` bytes
        q        int32*, words of four int8: [rows, int8_row_bytes(k) / 4]
        acc      int32*, [rows, n], written in full and not beyond
        rows     int64, at least 1

    Raises ValueError where the sums of so many columns do not fit in 32 bits, and where the packed
    matrix is too large for 32 bit offsets.
    """
    if packed_bytes(n, k, layout) > _MAX_PACKED_BYTES:
        raise ValueError(f"a ternary matrix of {n} x {k} does not fit in 2 GiB")
    if k > MAX_COLUMNS:
        raise ValueError(f"a ternary matrix may have at most {MAX_COLUMNS} columns, not {k}")
    parameters = {"weights": "uint8*", "q": "int32*", "acc": "int32*", "rows": "int64"}
    name = f"ternary_matmul_{n}x{k}_{layout.replace('.', '_')}_{isa}"
    return make_kernel(name, parameters, functools.partial(_WRITE[isa], Matrix(n, k, layout)))
