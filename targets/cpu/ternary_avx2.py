# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The ternary matmul on AVX2, and on AVX2 with VNNI: vectors of 32 bytes, half a block.

    half 0    row 0: b b b b | row 1: b b b b | ... | row 7:  b b b b      bytes 0..31 of a block
    half 1    row 8: b b b b | row 9: b b b b | ... | row 15: b b b b      bytes 32..63

Both instruction sets share the loops; an `Arithmetic` says how products are summed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import BLOCKS, VECTOR_BYTES, Run
from mmc.targets.cpu.share import share
from mmc.targets.cpu.ternary_256 import Arithmetic, stream_of, unpack_half
from mmc.targets.cpu.ternary_tile import (
    Matrix,
    Vector,
    multiply_in_parts,
    put,
    row_sums,
    splat,
    store_tile,
    zero_registers,
)
from mmc.targets.tvm.memory import prefetch

_HALVES = (0, 32)
"""Where the halves of a block begin."""

# Up to this many rows of q are multiplied with the packed weights; from there on unpacking pays.
_GEMV_ROWS = 2

# The sums of 16 weight rows x 6 rows of q take 12 of the 16 vector registers.
_GEMM_ROWS = 6

_PREFETCH_VECTORS = 64


def writer(arithmetic: Arithmetic) -> Callable[..., None]:
    """The kernel's statements: stream the packed weights for few rows, unpack them for many."""

    def write(matrix: Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
        with T.If(rows <= _GEMV_ROWS):
            with T.Then():
                _gemv(arithmetic, matrix, weights, q, acc, rows)
            with T.Else():
                _gemm(arithmetic, matrix, weights, q, acc, rows)

    return write


def _spread(q: Any, index: Any) -> Vector:
    return T.broadcast(q[index], 8)


def _gemv(
    arithmetic: Arithmetic, matrix: Matrix, weights: Any, q: Any, acc: Any, rows: Any
) -> None:
    """Few rows: stream the packed weights once, two tiles side by side sharing the words of q.

    Bound: memory bandwidth, with the operations that `Stream` tells of not far behind.
    """
    sums = row_sums(matrix, q, T.int64(0), rows)
    tile_bytes = matrix.tile_vectors * VECTOR_BYTES

    def multiply_pair(pair: Any) -> None:
        # Of an odd number of tiles the last is its own partner.
        tiles = [pair * 2, T.min(pair * 2 + 1, matrix.tiles - 1)]
        starts = [T.Bind(tile * tile_bytes) for tile in tiles]
        with T.serial(0, rows) as row:
            halves = _stream(arithmetic, matrix, weights, starts, q, row * matrix.q_words)
            for index, tile in enumerate(tiles):
                total = T.alloc_buffer((16,), "int32")
                for half, result in enumerate(halves[2 * index : 2 * index + 2]):
                    part = result - splat(sums[row], 8, "int32")
                    T.buffer_store(total, part, [T.ramp(half * 8, 1, 8)])
                store_tile(matrix, acc, row, tile, T.Bind(total.vload([0], "int32x16")))

    share(-(-matrix.tiles // 2), multiply_pair)


def _stream(
    arithmetic: Arithmetic, matrix: Matrix, weights: Any, starts: list[Any], q: Any, q_start: Any
) -> list[Vector]:
    """Return the sums of q times digits of each half of each tile."""
    halves = [start + half for start in starts for half in _HALVES]
    results = [splat(0, 8, "int32") for _ in halves]
    for run in matrix.runs:
        stream = stream_of(run.layout)
        chunk_blocks = arithmetic.chunk_blocks(stream, run.blocks)
        totals = zero_registers(len(halves), 8)
        with T.serial(0, -(-run.blocks // chunk_blocks)) as chunk:
            first = T.Bind(chunk * chunk_blocks)
            partial = [arithmetic.registers(len(stream.factors)) for _ in halves]
            with T.serial(0, T.min(run.blocks - first, chunk_blocks)) as step:
                block = T.Bind(first + step)
                for start in starts:
                    _prefetch(matrix, run, weights, start, block)
                words = q_start + run.first_word + block * BLOCKS[run.layout].words
                for half, registers in zip(halves, partial, strict=True):
                    packed = _load(run, weights, half, block)
                    for word, group, operand in stream.operands(packed):
                        arithmetic.dot(registers[group], operand, _spread(q, words + word))
            for total, registers in zip(totals, partial, strict=True):
                scaled = zip(registers, stream.factors, strict=True)
                put(total, sum((arithmetic.widen(r, f) for r, f in scaled), total[0]))
        shift = splat(stream.shift, 8, "int32")
        results = [
            result + T.shift_right(total[0], shift)
            for result, total in zip(results, totals, strict=True)
        ]
    return results


def _load(run: Run, weights: Any, start: Any, block: Any) -> list[Vector]:
    """Load half of each vector of a block of a run; `start` is that half of the tile's first."""
    vectors = BLOCKS[run.layout].vectors
    first = T.Bind(start + (run.first_vector + block * vectors) * VECTOR_BYTES)
    return [T.Bind(weights.vload([first + i * VECTOR_BYTES], "uint8x32")) for i in range(vectors)]


def _prefetch(matrix: Matrix, run: Run, weights: Any, start: Any, block: Any) -> None:
    """Prefetch a block of the tile, further on, where two tiles are read side by side.

    After the end of a tile comes the tile after the next; short tiles wait for whole pairs.
    """
    tile, vectors = matrix.tile_vectors, BLOCKS[run.layout].vectors
    here = run.first_vector + block * vectors
    if tile <= _PREFETCH_VECTORS:
        ahead = -(-_PREFETCH_VECTORS // (2 * tile)) * 2 * tile
    else:
        jump = T.Select(here >= tile - _PREFETCH_VECTORS, T.int32(tile), T.int32(0))
        ahead = _PREFETCH_VECTORS + jump
    first = T.Bind(start + (here + ahead) * VECTOR_BYTES)
    for vector in range(vectors):
        prefetch(weights, first + vector * VECTOR_BYTES, 2)


def _gemm(
    arithmetic: Arithmetic, matrix: Matrix, weights: Any, q: Any, acc: Any, rows: Any
) -> None:
    """Many rows: unpack part of a tile into bytes, then 16 weight rows x 6 rows of q in registers.

        panel  [words of a part][64 bytes]    digits, in the first cache
        totals [rows][16 int32]               in the second, read and written once for each part

    12 sums stand in registers; a word costs 2 loads, 6 broadcasts from memory and 12 dot products.
    Bound: two products of 32 bytes per cycle.  Rows left over go in one group of fewer than 6.
    """
    add_products = partial(_gemm_tile, arithmetic, matrix, weights, q)
    multiply_in_parts(matrix, q, acc, rows, add_products)


def _gemm_tile(
    arithmetic: Arithmetic,
    matrix: Matrix,
    weights: Any,
    q: Any,
    totals: Any,
    tile: Any,
    first: Any,
    count: Any,
) -> None:
    """Add the products of one tile with `count` rows of q to `totals` [row][16]."""
    panel = T.alloc_buffer((arithmetic.panel_words * VECTOR_BYTES,), "uint8")
    tile_start = T.Bind(tile * matrix.tile_vectors * VECTOR_BYTES)
    for run in matrix.runs:
        words = BLOCKS[run.layout].words
        chunk_blocks = arithmetic.panel_words // words
        with T.serial(0, -(-run.blocks // chunk_blocks)) as chunk:
            start = T.Bind(chunk * chunk_blocks)
            blocks = T.Bind(T.min(run.blocks - start, chunk_blocks))
            with T.serial(0, blocks) as block:
                for half in _HALVES:
                    packed = _load(run, weights, tile_start + half, start + block)
                    for word, digits in enumerate(unpack_half(run.layout, packed)):
                        target = (block * words + word) * VECTOR_BYTES + half
                        T.buffer_store(panel, digits, [T.ramp(target, 1, 32)])
            first_word = T.Bind(run.first_word + start * words)
            _gemm_panel(
                arithmetic, matrix, panel, q, totals, first, count, first_word, blocks * words
            )


def _gemm_panel(
    arithmetic: Arithmetic,
    matrix: Matrix,
    panel: Any,
    q: Any,
    totals: Any,
    first: Any,
    count: Any,
    first_word: Any,
    words: Any,
) -> None:
    """Add the products of a panel of `words` with all rows of q."""

    def multiply(row: Any, height: int) -> None:
        begins = [T.Bind((first + row + i) * matrix.q_words + first_word) for i in range(height)]
        _gemm_rows(arithmetic, panel, q, begins, words, totals, row)

    with T.serial(0, T.floordiv(count, _GEMM_ROWS)) as step:
        multiply(step * _GEMM_ROWS, _GEMM_ROWS)
    for height in range(1, _GEMM_ROWS):
        with T.If(T.floormod(count, _GEMM_ROWS) == height), T.Then():
            multiply(count - height, height)


def _gemm_rows(
    arithmetic: Arithmetic,
    panel: Any,
    q: Any,
    begins: list[Any],
    words: Any,
    totals: Any,
    row: Any,
) -> None:
    """Add the products of a panel with the rows of q that begin at `begins` to `totals`."""
    partial = [arithmetic.registers(len(_HALVES)) for _ in begins]
    with T.serial(0, words) as word:
        digits = [T.Bind(panel.vload([word * VECTOR_BYTES + half], "uint8x32")) for half in _HALVES]
        for registers, begin in zip(partial, begins, strict=True):
            spread = T.Bind(_spread(q, begin + word))
            for register, operand in zip(registers, digits, strict=True):
                arithmetic.dot(register, operand, spread)
    for offset, registers in enumerate(partial):
        for half, register in enumerate(registers):
            where = [T.ramp((row + offset) * 16 + half * 8, 1, 8)]
            T.buffer_store(totals, totals[where[0]] + arithmetic.widen(register, 1), where)
