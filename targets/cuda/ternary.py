# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The ternary matmul on a GPU for few rows of activations; `products.py` has it for more.

The weights lie in memory as `mmc.ir.packing` draws "2bit": a vector of 64 bytes holds 16 rows by 16
columns.  A row's 4 bytes j hold the digits of columns 4 w + j at bits 2 w: masked with 3 << 2 w
they meet the activations 4 w to 4 w + 3, which are one word.  Digits stay in place, as 0, 1, 2; the
sum of the activations is subtracted at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import TILE_ROWS, tile_vectors
from mmc.targets.cuda.code import DeviceKernel, call, do, make_kernel
from mmc.targets.layout import int8_row_bytes
from mmc.targets.tvm.elementary import hold

PARAMETERS = {"in_1": "uint32*", "in_0": "int32*", "out_0": "int32*", "size_rows": "int64"}
"""Weights, q, sums and the rows of q: the same for all kernels that multiply."""

_WARP = 32


@dataclass(frozen=True)
class Matrix:
    """The sizes of a packed matrix; a vector is 16 words of 4 bytes."""

    n: int
    k: int

    @property
    def tiles(self) -> int:
        return -(-self.n // TILE_ROWS)

    @property
    def vectors(self) -> int:
        return tile_vectors(self.k, "2bit")

    @property
    def q_words(self) -> int:
        return int8_row_bytes(self.k) // 4


def _local(count: int, dtype: str) -> Any:
    return T.alloc_buffer((count,), dtype, scope="local")


def zeros(count: int) -> Any:
    buffer = _local(count, "int32")
    for i in range(count):
        T.buffer_store(buffer, T.int32(0), [i])
    return buffer


def _wide(x: Any) -> Any:
    return T.cast(x, "int64")


SUMS = 17
"""What a thread adds up with dp4a: 4 rows by 4 positions of a digit in a byte, and activations."""


def multiply_in_place(packed: Any, first: int, activations: Any, sums: Any) -> None:
    """Multiply 4 rows x 16 columns, the words of `packed` from `first` on, digits as they stand."""
    for i in range(4):
        for word in range(4):
            digits = packed[first + i] & T.uint32(0x03030303 << 2 * word)
            at = i * 4 + word
            total = call("mmc_dot4", "int32", digits, activations[word], sums[at])
            T.buffer_store(sums, total, [at])
    for word in range(4):
        total = call("__dp4a", "int32", T.int32(0x01010101), activations[word], sums[16])
        T.buffer_store(sums, total, [16])


def store_part(sums: Any, parts: Any, start: Any, lane: Any) -> None:
    """Add up over the lanes of a warp, and write the sums of 16 rows."""
    totals = []
    for i in range(4):
        total = sums[i * 4] - sums[16]
        for word in range(1, 4):
            total = total + T.shift_right(sums[i * 4 + word], T.int32(2 * word))
        totals.append(total)
    total = hold(call("mmc_sum_of_four", "int32", *totals))  # by all lanes
    with T.If(lane < 16), T.Then():
        at = start + lane % 4 * 4 + call("mmc_summed", "int32")
        T.buffer_store(parts, total, [at])


def few(matrix: Matrix, name: str, warps: int) -> DeviceKernel:
    """Blocks: tiles x rows.  Bound: reading the weights."""
    steps = -(-matrix.vectors // 8)

    def body(block: Any, thread: Any, w: Any, q: Any, acc: Any, rows: Any) -> None:
        lane, warp = thread % _WARP, thread // _WARP
        tile = T.Bind(_wide(block % matrix.tiles))
        row = T.Bind(_wide(T.truncdiv(block, matrix.tiles)))
        packed, activations = _local(4, "uint32"), _local(4, "int32")
        sums = zeros(SUMS)
        for step in range(-(-steps // warps)):
            vector = T.Bind((step * warps + warp) * 8 + lane // 4)

            def multiply(vector: Any = vector) -> None:
                start = (tile * matrix.vectors + _wide(vector)) * 16 + _wide(lane % 4 * 4)
                do("mmc_stream16", T.address_of(packed[0]), T.address_of(w[start]))
                q_start = row * matrix.q_words + _wide(vector) * 4
                do("mmc_load16", T.address_of(activations[0]), T.address_of(q[q_start]))
                multiply_in_place(packed, 0, activations, sums)

            if (step + 1) * warps * 8 <= matrix.vectors:
                multiply()
            else:
                with T.If(vector < matrix.vectors), T.Then():
                    multiply()
        parts = T.alloc_buffer((warps * TILE_ROWS,), "int32", scope="shared")
        store_part(sums, parts, warp * TILE_ROWS, lane)
        T.evaluate(T.cuda.cta_sync())
        column = T.Bind(tile * TILE_ROWS + _wide(thread))
        with T.If(T.And(thread < TILE_ROWS, column < matrix.n)), T.Then():
            total = parts[thread]
            for other in range(1, warps):
                total = total + parts[other * TILE_ROWS + thread]
            T.buffer_store(acc, total, [row * matrix.n + column])

    return make_kernel(name, PARAMETERS, warps * _WARP, body)
