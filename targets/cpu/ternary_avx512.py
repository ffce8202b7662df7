# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The ternary matmul on AVX-512 with VNNI.

vpdpbusd adds the products of 64 unsigned and 64 signed bytes to 16 int32.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import BLOCK_BYTES
from mmc.targets.cpu.ternary_tile import (
    SUMMED_ROWS,
    Matrix,
    Vector,
    put,
    row_sums,
    splat,
    store_tile,
    unpack_digits,
    zero_registers,
)

# Up to this many rows of q are multiplied with the packed weights; from there on unpacking pays.
_GEMV_ROWS = 5

# The sums of 4 tiles x 6 rows take 24 of the 32 vector registers.
_GEMM_ROWS = 6
_GEMM_TILES = 4

_PREFETCH_BLOCKS = 64

_VPDPBUSD = "llvm.x86.avx512.vpdpbusd.512"

# LLVM would rewrite a chain of multiplications by 3 as several slower ones by 9, 27, ...
_TRIPLE = """
define linkonce_odr <64 x i8> @mmc_triple(<64 x i8> %b) alwaysinline nounwind readnone {
  %r = call <64 x i8> asm "vpaddb $1, $1, $0\\0A\\09vpaddb $1, $0, $0", "=&v,v"(<64 x i8> %b)
    nounwind memory(none)
  ret <64 x i8> %r
}
"""


def write(matrix: Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    """The kernel's statements: stream the packed weights for few rows, unpack them for many."""
    with T.attr(T.int32(0), "pragma_import_llvm", _TRIPLE), T.If(rows <= _GEMV_ROWS):
        with T.Then():
            _gemv(matrix, weights, q, acc, rows)
        with T.Else():
            _gemm(matrix, weights, q, acc, rows)


def _dot(register: Any, digits: Vector, word: Vector) -> None:
    """Add digits times a word of q to 16 sums."""
    unsigned, signed = T.reinterpret("int8x64", digits), T.reinterpret("int8x64", word)
    put(register, T.call_llvm_pure_intrin("int32x16", _VPDPBUSD, register[0], unsigned, signed))


def _gemv(matrix: Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    """Few rows: stream the packed weights once, two tiles side by side sharing the words of q.

    Nothing is unpacked.  Bound: memory bandwidth; per 64 bytes, 4 ("2bit") or 10 ("1.6bit") dot
    products.  The weights are prefetched further ahead than the hardware alone does.

    2bit: the bits of plane s stay where they are; the sum is 4^s times too large, and is shifted
    once at the end.  1.6bit: with b_0 the byte and b_{s+1} = 3 b_s modulo 256, the digit of plane
    s is (3 b_s - b_{s+1}) / 256; the dot products with b_s and b_{s+1} are summed separately.
    """
    accumulate = _stream_2bit if matrix.layout == "2bit" else _stream_1_6bit
    sums = row_sums(matrix, q, T.int64(0), rows)
    tile_bytes = matrix.blocks * BLOCK_BYTES
    with T.parallel(0, -(-matrix.tiles // 2)) as pair, T.serial(0, rows) as row:
        # Of an odd number of tiles the last is its own partner.
        tiles = [pair * 2, T.min(pair * 2 + 1, matrix.tiles - 1)]
        starts = [T.Bind(tile * tile_bytes) for tile in tiles]
        results = accumulate(matrix, weights, starts, q, row * matrix.q_words)
        for tile, result in zip(tiles, results, strict=True):
            total = T.Bind(result - splat(sums[row], 16, "int32"))
            store_tile(matrix, acc, row, tile, total)


def _prefetch_distance(matrix: Matrix, block: Any) -> Any:
    """Return how many bytes ahead to prefetch when two tiles are read side by side.

    After the end of a tile comes the tile after the next; short tiles wait for whole pairs.
    """
    tile_bytes, ahead = matrix.blocks * BLOCK_BYTES, _PREFETCH_BLOCKS * BLOCK_BYTES
    if matrix.blocks <= _PREFETCH_BLOCKS:
        return -(-ahead // (2 * tile_bytes)) * 2 * tile_bytes
    ends = block >= matrix.blocks - _PREFETCH_BLOCKS
    return T.Bind(T.Select(ends, T.int32(ahead + tile_bytes), T.int32(ahead)))


def _load_and_prefetch(weights: Any, offset: Any, ahead: Any) -> Vector:
    address = T.address_of(weights[offset + ahead])
    read, second_level, data = T.int32(0), T.int32(2), T.int32(1)
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, read, second_level, data))
    return T.Bind(weights.vload([offset], "uint8x64"))


def _load_pair(matrix: Matrix, weights: Any, starts: list[Any], block: Any) -> list[Vector]:
    ahead = _prefetch_distance(matrix, block)
    return [_load_and_prefetch(weights, start + block * BLOCK_BYTES, ahead) for start in starts]


def _stream_2bit(
    matrix: Matrix, weights: Any, starts: list[Any], q: Any, q_start: Any
) -> list[Vector]:
    sums = [zero_registers(4) for _ in starts]
    with T.serial(0, matrix.blocks) as block:
        packed = _load_pair(matrix, weights, starts, block)
        for plane in range(4):
            word = T.Bind(T.broadcast(q[q_start + block * 4 + plane], 16))
            for tile, byte in enumerate(packed):
                _dot(sums[tile][plane], byte & splat(3 << 2 * plane, 64, "uint8"), word)
    return [
        sum((T.shift_right(p[s][0], splat(2 * s, 16, "int32")) for s in (1, 2, 3)), p[0][0])
        for p in sums
    ]


def _stream_1_6bit(
    matrix: Matrix, weights: Any, starts: list[Any], q: Any, q_start: Any
) -> list[Vector]:
    before = [zero_registers(5) for _ in starts]
    after = [zero_registers(5) for _ in starts]
    with T.serial(0, matrix.blocks) as block:
        packed = _load_pair(matrix, weights, starts, block)
        for plane in range(5):
            word = T.Bind(T.broadcast(q[q_start + block * 5 + plane], 16))
            for tile, byte in enumerate(packed):
                packed[tile] = T.Bind(T.call_pure_extern("uint8x64", "mmc_triple", byte))
                _dot(before[tile][plane], byte, word)
                _dot(after[tile][plane], packed[tile], word)
    return [_difference(b, a) for b, a in zip(before, after, strict=True)]


def _difference(before: list[Any], after: list[Any]) -> Vector:
    """Return (3 * before - after) / 256, formed modulo 2^32: only the result fits in 32 bits."""
    first, second = (
        sum((T.reinterpret("uint32x16", r[0]) for r in registers), splat(0, 16, "uint32"))
        for registers in (before, after)
    )
    scaled = T.reinterpret("int32x16", first * splat(3, 16, "uint32") - second)
    return T.shift_right(scaled, splat(8, 16, "int32"))


def _gemm(matrix: Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    """Many rows: unpack four tiles at a time into bytes, then 4 tiles x 6 rows of q in registers.

        panel [4 tiles][words][64 bytes]      the digits of 64 weight rows, from the second cache

    24 sums stand in registers; a word costs 4 loads, 6 broadcasts from memory and 24 dot products.
    Bound: two dot products per cycle.  Rows left over go in one group of fewer than 6.
    """
    with T.serial(0, T.ceildiv(rows, SUMMED_ROWS)) as part:
        first = T.Bind(part * SUMMED_ROWS)
        count = T.Bind(T.min(rows - first, T.int64(SUMMED_ROWS)))
        sums = row_sums(matrix, q, first, count)
        with T.parallel(0, -(-matrix.tiles // _GEMM_TILES)) as group:
            panel = T.alloc_buffer((_GEMM_TILES * matrix.words * 64,), "uint8")
            _unpack_panel(matrix, weights, group * _GEMM_TILES, panel)

            def columns(row: Any, height: int) -> None:
                _gemm_rows(matrix, panel, q, acc, sums, group * _GEMM_TILES, first, row, height)

            with T.serial(0, T.floordiv(count, _GEMM_ROWS)) as step:
                columns(step * _GEMM_ROWS, _GEMM_ROWS)
            for height in range(1, _GEMM_ROWS):
                with T.If(T.floormod(count, _GEMM_ROWS) == height), T.Then():
                    columns(count - height, height)


def _unpack_panel(matrix: Matrix, weights: Any, first: Any, panel: Any) -> None:
    """Write the digits of `_GEMM_TILES` tiles; a tile past the end repeats the last one."""
    with T.serial(0, _GEMM_TILES) as tile, T.serial(0, matrix.blocks) as block:
        source = T.min(first + tile, matrix.tiles - 1) * matrix.blocks + block
        packed = _load_and_prefetch(
            weights, source * BLOCK_BYTES, 2 * _PREFETCH_BLOCKS * BLOCK_BYTES
        )
        target = (tile * matrix.words + block * matrix.planes) * 64
        for plane, digits in enumerate(unpack_digits(matrix, packed)):
            T.buffer_store(panel, digits, [T.ramp(target + plane * 64, 1, 64)])


def _gemm_rows(
    matrix: Matrix,
    panel: Any,
    q: Any,
    acc: Any,
    sums: Any,
    first_tile: Any,
    first_row: Any,
    row: Any,
    height: int,
) -> None:
    """Multiply a panel with `height` rows of q, from row `first_row + row` on."""
    totals = [zero_registers(_GEMM_TILES) for _ in range(height)]
    start = T.Bind((first_row + row) * matrix.q_words)
    with T.serial(0, matrix.words) as word:
        digits = [
            T.Bind(panel.vload([(tile * matrix.words + word) * 64], "uint8x64"))
            for tile in range(_GEMM_TILES)
        ]
        for column, registers in enumerate(totals):
            spread = T.Bind(T.broadcast(q[start + column * matrix.q_words + word], 16))
            for tile, register in enumerate(registers):
                _dot(register, digits[tile], spread)
    for column, registers in enumerate(totals):
        for tile, register in enumerate(registers):
            result = T.Bind(register[0] - splat(sums[row + column], 16, "int32"))
            store_tile(matrix, acc, first_row + row + column, first_tile + tile, result)
