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
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import (
    BLOCK_BYTES,
    MAX_COLUMNS,
    PLANES,
    TILE_ROWS,
    Layout,
    block_columns,
    packed_bytes,
)
from mmc.targets.cpu.features import Isa
from mmc.targets.tvm.host import Kernel, make_kernel

CPU: dict[Isa, str] = {"avx512_vnni": "cascadelake", "portable": "x86-64-v3"}
"""The least CPU, by its LLVM name, that the kernels of an instruction set run well on."""

_MAX_PACKED_BYTES = (1 << 31) - (1 << 24)
_ROW_BYTES = 320

# Up to this many rows of q are multiplied with the packed weights; from there on unpacking pays.
_GEMV_ROWS = 5

# The sums of 4 tiles x 6 rows take 24 of the 32 vector registers.
_GEMM_ROWS = 6
_GEMM_TILES = 4

# Rows of q between two unpackings of the same weights: few enough for the second-level cache.
_SUMMED_ROWS = 80 * _GEMM_ROWS

_PREFETCH_BLOCKS = 64

Vector: TypeAlias = Any
"""A TIR expression of a vector type."""


def activation_stride(k: int) -> int:
    """Return the bytes from one row of q to the next; those past column `k` must be 0.

    A multiple of 64, so that rows are aligned, and of 20, so that both layouts end on a block.
    """
    return -(-k // _ROW_BYTES) * _ROW_BYTES


@functools.cache
def ternary_matmul(n: int, k: int, layout: Layout, isa: Isa) -> Kernel:
    """Return the kernel for `n` weight rows and `k` columns, for any number of activation rows.

    Parameters of the kernel:
        weights  uint8*, `packed_bytes(n, k, layout)` bytes
        q        int32*, words of four int8: [rows, activation_stride(k) / 4]
        acc      int32*, [rows, n], written in full and not beyond
        rows     int64, at least 1

    Raises ValueError where the sums of so many columns do not fit in 32 bits, and where the packed
    matrix is too large for 32 bit offsets.
    """
    if packed_bytes(n, k, layout) > _MAX_PACKED_BYTES:
        raise ValueError(f"a ternary matrix of {n} x {k} does not fit in 2 GiB")
    if k > MAX_COLUMNS[layout]:
        raise ValueError(
            f"a {layout} ternary matrix may have at most {MAX_COLUMNS[layout]} columns, not {k}"
        )
    matrix = _Matrix(n, k, layout)
    body = _avx512_vnni if isa == "avx512_vnni" else _portable
    parameters = {"weights": "uint8*", "q": "int32*", "acc": "int32*", "rows": "int64"}
    name = f"ternary_matmul_{n}x{k}_{layout.replace('.', '_')}_{isa}"
    return make_kernel(name, parameters, functools.partial(body, matrix))


@dataclass(frozen=True)
class _Matrix:
    """The sizes of a packed matrix."""

    n: int
    k: int
    layout: Layout

    @property
    def planes(self) -> int:
        return PLANES[self.layout]

    @property
    def tiles(self) -> int:
        return -(-self.n // TILE_ROWS)

    @property
    def blocks(self) -> int:
        return -(-self.k // block_columns(self.layout))

    @property
    def words(self) -> int:
        return self.blocks * self.planes

    @property
    def q_words(self) -> int:
        return activation_stride(self.k) // 4


# What both instruction sets share.


def _splat(value: Any, lanes: int, dtype: str) -> Vector:
    return T.broadcast(T.cast(value, dtype), lanes)


def _registers(count: int, lanes: int = 16, dtype: str = "int32") -> list[Any]:
    """Make vector variables that hold 0; one buffer each, which LLVM keeps in registers."""
    registers = [T.alloc_buffer((1,), f"{dtype}x{lanes}") for _ in range(count)]
    for register in registers:
        _set(register, _splat(0, lanes, dtype))
    return registers


def _set(register: Any, value: Vector) -> None:
    T.buffer_store(register, value, [0])


def _row_sums(matrix: _Matrix, q: Any, first: Any, count: Any) -> Any:
    """Sum the int8 values of `count` rows of q, from row `first` on."""
    sums = T.alloc_buffer((_SUMMED_ROWS,), "int32")
    lanes = T.alloc_buffer((16,), "int32")
    with T.serial(0, count) as row:
        T.buffer_store(lanes, _splat(0, 16, "int32"), [T.ramp(0, 1, 16)])
        with T.serial(0, matrix.q_words // 16) as step:
            words = q.vload([(first + row) * matrix.q_words + step * 16], "int32x16")
            total = lanes[T.ramp(0, 1, 16)]
            for byte in range(4):
                left = T.shift_left(words, _splat(24 - 8 * byte, 16, "int32"))
                total = total + T.shift_right(left, _splat(24, 16, "int32"))
            T.buffer_store(lanes, total, [T.ramp(0, 1, 16)])
        T.buffer_store(sums, sum((lanes[i] for i in range(1, 16)), lanes[0]), [row])
    return sums


def _store_tile(matrix: _Matrix, acc: Any, row: Any, tile: Any, value: Vector) -> None:
    """Write the 16 sums of a tile; of the last tile, what lies within the row; none past it."""
    full, rest = divmod(matrix.n, TILE_ROWS)
    start = row * matrix.n + tile * TILE_ROWS
    with T.If(tile < full), T.Then():
        T.buffer_store(acc, value, [T.ramp(start, 1, 16)])
    if rest:
        with T.If(tile == full), T.Then():
            lanes = T.alloc_buffer((16,), "int32")
            T.buffer_store(lanes, value, [T.ramp(0, 1, 16)])
            with T.serial(0, rest) as lane:
                T.buffer_store(acc, lanes[lane], [start + lane])


def _digits(matrix: _Matrix, packed: Vector) -> list[Vector]:
    """Unpack 64 bytes into a vector of digits for each plane."""
    if matrix.layout == "2bit":
        low = _splat(3, 64, "uint8")
        return [T.shift_right(packed, _splat(2 * s, 64, "uint8")) & low for s in range(4)]
    digits: list[Vector] = []
    for _ in range(5):
        # The carry of 3 * byte: 1 from ceil(256 / 3) on, 2 from ceil(512 / 3) on.
        zero, one, two = (_splat(digit, 64, "uint8") for digit in range(3))
        carry = T.Select(packed >= _splat(86, 64, "uint8"), one, zero)
        digits.append(T.Bind(T.Select(packed >= _splat(171, 64, "uint8"), two, carry)))
        packed = T.Bind(packed + packed + packed)
    return digits


# AVX-512 with VNNI: vpdpbusd adds the products of 64 unsigned and 64 signed bytes to 16 int32.

_VPDPBUSD = "llvm.x86.avx512.vpdpbusd.512"

# LLVM would rewrite a chain of multiplications by 3 as several slower ones by 9, 27, ...
_TRIPLE = """
define linkonce_odr <64 x i8> @mmc_triple(<64 x i8> %b) alwaysinline nounwind readnone {
  %r = call <64 x i8> asm "vpaddb $1, $1, $0\\0A\\09vpaddb $1, $0, $0", "=&v,v"(<64 x i8> %b)
    nounwind memory(none)
  ret <64 x i8> %r
}
"""


def _avx512_vnni(matrix: _Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    with T.attr(T.int32(0), "pragma_import_llvm", _TRIPLE), T.If(rows <= _GEMV_ROWS):
        with T.Then():
            _gemv(matrix, weights, q, acc, rows)
        with T.Else():
            _gemm(matrix, weights, q, acc, rows)


def _dot(register: Any, digits: Vector, word: Vector) -> None:
    """Add digits times a word of q to 16 sums."""
    unsigned, signed = T.reinterpret("int8x64", digits), T.reinterpret("int8x64", word)
    _set(register, T.call_llvm_pure_intrin("int32x16", _VPDPBUSD, register[0], unsigned, signed))


def _gemv(matrix: _Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    """Few rows: stream the packed weights once, two tiles side by side sharing the words of q.

    Nothing is unpacked.  Bound: memory bandwidth; per 64 bytes, 4 ("2bit") or 10 ("1.6bit") dot
    products.  The weights are prefetched further ahead than the hardware alone does.

    2bit: the bits of plane s stay where they are; the sum is 4^s times too large, and is shifted
    once at the end.  1.6bit: with b_0 the byte and b_{s+1} = 3 b_s modulo 256, the digit of plane
    s is (3 b_s - b_{s+1}) / 256; the dot products with b_s and b_{s+1} are summed separately.
    """
    accumulate = _stream_2bit if matrix.layout == "2bit" else _stream_1_6bit
    sums = _row_sums(matrix, q, T.int64(0), rows)
    tile_bytes = matrix.blocks * BLOCK_BYTES
    with T.parallel(0, -(-matrix.tiles // 2)) as pair, T.serial(0, rows) as row:
        # Of an odd number of tiles the last is its own partner.
        tiles = [pair * 2, T.min(pair * 2 + 1, matrix.tiles - 1)]
        starts = [T.Bind(tile * tile_bytes) for tile in tiles]
        results = accumulate(matrix, weights, starts, q, row * matrix.q_words)
        for tile, result in zip(tiles, results, strict=True):
            total = T.Bind(result - _splat(sums[row], 16, "int32"))
            _store_tile(matrix, acc, row, tile, total)


def _prefetch_distance(matrix: _Matrix, block: Any) -> Any:
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


def _load_pair(matrix: _Matrix, weights: Any, starts: list[Any], block: Any) -> list[Vector]:
    ahead = _prefetch_distance(matrix, block)
    return [_load_and_prefetch(weights, start + block * BLOCK_BYTES, ahead) for start in starts]


def _stream_2bit(
    matrix: _Matrix, weights: Any, starts: list[Any], q: Any, q_start: Any
) -> list[Vector]:
    sums = [_registers(4) for _ in starts]
    with T.serial(0, matrix.blocks) as block:
        packed = _load_pair(matrix, weights, starts, block)
        for plane in range(4):
            word = T.Bind(T.broadcast(q[q_start + block * 4 + plane], 16))
            for tile, byte in enumerate(packed):
                _dot(sums[tile][plane], byte & _splat(3 << 2 * plane, 64, "uint8"), word)
    return [
        sum((T.shift_right(p[s][0], _splat(2 * s, 16, "int32")) for s in (1, 2, 3)), p[0][0])
        for p in sums
    ]


def _stream_1_6bit(
    matrix: _Matrix, weights: Any, starts: list[Any], q: Any, q_start: Any
) -> list[Vector]:
    before = [_registers(5) for _ in starts]
    after = [_registers(5) for _ in starts]
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
        sum((T.reinterpret("uint32x16", r[0]) for r in registers), _splat(0, 16, "uint32"))
        for registers in (before, after)
    )
    scaled = T.reinterpret("int32x16", first * _splat(3, 16, "uint32") - second)
    return T.shift_right(scaled, _splat(8, 16, "int32"))


def _gemm(matrix: _Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    """Many rows: unpack four tiles at a time into bytes, then 4 tiles x 6 rows of q in registers.

        panel [4 tiles][words][64 bytes]      the digits of 64 weight rows, from the second cache

    24 sums stand in registers; a word costs 4 loads, 6 broadcasts from memory and 24 dot products.
    Bound: two dot products per cycle.  Rows left over go in one group of fewer than 6.
    """
    with T.serial(0, T.ceildiv(rows, _SUMMED_ROWS)) as part:
        first = T.Bind(part * _SUMMED_ROWS)
        count = T.Bind(T.min(rows - first, T.int64(_SUMMED_ROWS)))
        sums = _row_sums(matrix, q, first, count)
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


def _unpack_panel(matrix: _Matrix, weights: Any, first: Any, panel: Any) -> None:
    """Write the digits of `_GEMM_TILES` tiles; a tile past the end repeats the last one."""
    with T.serial(0, _GEMM_TILES) as tile, T.serial(0, matrix.blocks) as block:
        source = T.min(first + tile, matrix.tiles - 1) * matrix.blocks + block
        packed = _load_and_prefetch(
            weights, source * BLOCK_BYTES, 2 * _PREFETCH_BLOCKS * BLOCK_BYTES
        )
        target = (tile * matrix.words + block * matrix.planes) * 64
        for plane, digits in enumerate(_digits(matrix, packed)):
            T.buffer_store(panel, digits, [T.ramp(target + plane * 64, 1, 64)])


def _gemm_rows(
    matrix: _Matrix,
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
    totals = [_registers(_GEMM_TILES) for _ in range(height)]
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
            result = T.Bind(register[0] - _splat(sums[row + column], 16, "int32"))
            _store_tile(matrix, acc, first_row + row + column, first_tile + tile, result)


# Any x86-64, and any other CPU with vectors: plain vector arithmetic that LLVM splits as needed.

_CHUNK_WORDS = 60
"""Words whose products fit in an int16 sum: 60 words * 2 products * 2 * 128 = 30720."""

_PORTABLE_ROWS = 2


def _portable(matrix: _Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    """Unpack a tile, 60 words at a time, into 16 bit digits, and multiply 16 bit by 16 bit.

        panel [60 words][2][32 int16]    columns 0 and 2 of the word: row 0, row 0, row 1, ...
                                         columns 1 and 3 of the word: row 0, row 0, row 1, ...

    Bound: per word and row of q, four operations on 32 int16 lanes, and the unpacking.
    """
    with T.serial(0, T.ceildiv(rows, _SUMMED_ROWS)) as part:
        first = T.Bind(part * _SUMMED_ROWS)
        count = T.Bind(T.min(rows - first, T.int64(_SUMMED_ROWS)))
        sums = _row_sums(matrix, q, first, count)
        with T.parallel(0, matrix.tiles) as tile:
            totals = T.alloc_buffer((_SUMMED_ROWS * 16,), "int32")
            with T.serial(0, count) as row:
                T.buffer_store(totals, _splat(-sums[row], 16, "int32"), [T.ramp(row * 16, 1, 16)])
            _portable_tile(matrix, weights, q, totals, tile, first, count)
            with T.serial(0, count) as row:
                total = T.Bind(totals.vload([row * 16], "int32x16"))
                _store_tile(matrix, acc, first + row, tile, total)


def _portable_tile(
    matrix: _Matrix, weights: Any, q: Any, totals: Any, tile: Any, first: Any, count: Any
) -> None:
    """Add the products of one tile with `count` rows of q to `totals` [row][16]."""
    panel = T.alloc_buffer((_CHUNK_WORDS * 64,), "int16")
    chunk_blocks = _CHUNK_WORDS // matrix.planes
    with T.serial(0, -(-matrix.blocks // chunk_blocks)) as chunk:
        start = T.Bind(chunk * chunk_blocks)
        blocks = T.Bind(T.min(matrix.blocks - start, chunk_blocks))
        with T.serial(0, blocks) as block:
            source = (tile * matrix.blocks + start + block) * BLOCK_BYTES
            _unpack_int16(matrix, weights.vload([source], "uint8x64"), panel, block)

        def multiply(row: Any, height: int) -> None:
            begins = [
                T.Bind((first + row + i) * matrix.q_words + start * matrix.planes)
                for i in range(height)
            ]
            _multiply_int16(panel, q, begins, blocks * matrix.planes, totals, row)

        with T.serial(0, T.floordiv(count, _PORTABLE_ROWS)) as step:
            multiply(step * _PORTABLE_ROWS, _PORTABLE_ROWS)
        with T.If(T.floormod(count, _PORTABLE_ROWS) == 1), T.Then():
            multiply(count - 1, 1)


def _unpack_int16(matrix: _Matrix, packed: Vector, panel: Any, block: Any) -> None:
    """Write the digits of a block as int16: of each word the even columns, then the odd."""
    lanes = T.Bind(T.reinterpret("uint16x32", packed))
    halves = [lanes & _splat(255, 32, "uint16"), T.shift_right(lanes, _splat(8, 32, "uint16"))]
    for half, byte in enumerate(halves):
        byte = T.Bind(byte)
        for plane in range(matrix.planes):
            if matrix.layout == "2bit":
                shifted = T.shift_right(byte, _splat(2 * plane, 32, "uint16"))
                digit = shifted & _splat(3, 32, "uint16")
            else:
                triple = T.Bind(byte * _splat(3, 32, "uint16"))
                digit = T.shift_right(triple, _splat(8, 32, "uint16"))
                byte = T.Bind(triple & _splat(255, 32, "uint16"))
            target = (block * matrix.planes + plane) * 64 + half * 32
            T.buffer_store(panel, T.reinterpret("int16x32", digit), [T.ramp(target, 1, 32)])


def _multiply_int16(
    panel: Any, q: Any, begins: list[Any], words: Any, totals: Any, row: Any
) -> None:
    """Add the products of a panel with the rows of q that begin at `begins` to `totals`."""
    partial = _registers(len(begins), 32, "int16")
    with T.serial(0, words) as word:
        even = T.Bind(panel.vload([word * 64], "int16x32"))
        odd = T.Bind(panel.vload([word * 64 + 32], "int16x32"))
        for register, begin in zip(partial, begins, strict=True):
            spread = T.Bind(T.reinterpret("int16x32", T.broadcast(q[begin + word], 16)))
            eight = _splat(8, 32, "int16")
            q_even = T.shift_right(T.shift_left(spread, eight), eight)
            q_odd = T.shift_right(spread, eight)
            _set(register, register[0] + even * q_even + odd * q_odd)
    for offset, register in enumerate(partial):
        pair = T.Bind(T.reinterpret("int32x16", register[0]))
        half = _splat(16, 16, "int32")
        low, high = T.shift_right(T.shift_left(pair, half), half), T.shift_right(pair, half)
        where = [T.ramp((row + offset) * 16, 1, 16)]
        T.buffer_store(totals, totals[where[0]] + low + high, where)
