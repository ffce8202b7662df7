# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""The ternary matmul on AVX-512 with VNNI and VBMI.

How digits are multiplied and unpacked stands in `mmc.targets.cpu.ternary_512`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.ir.packing import BLOCKS, TILE_ROWS, VECTOR_BYTES, Layout, Run
from mmc.targets.cpu.share import share
from mmc.targets.cpu.ternary_512 import IMPORTED, add_bytes, digits_of, dot, in_place
from mmc.targets.cpu.ternary_tile import (
    Matrix,
    Vector,
    row_sums,
    splat,
    store_tile,
    zero_registers,
)
from mmc.targets.tvm.memory import prefetch

_FEW_ROWS = 24
"""Up to this many rows of q are multiplied as the weights are read; more pay for a panel."""

_GROUP_ROWS = 8
_GROUP_TILES = 2
"""Few rows are taken in groups of this many, with two tiles: a digit is unpacked once for eight
rows, and a word of q comes from memory once for two tiles (some processors add one dot product a
cycle where that is an operand in memory, and two where it is in a register).
"""

# 4 tiles x 6 rows of sums are 24 of the 32 vector registers.
_PANEL_TILES = 4
_PANEL_ROWS = 6

_PANEL_WORDS = 4
"""Words that are multiplied in one turn of the loop."""

_PANEL_PAD = 5 * VECTOR_BYTES
"""Between the tiles of a panel: equal words of the four lie in different sets of a cache."""

_PART_ROWS = 43 * _PANEL_ROWS
"""Rows of q that all panels are multiplied with before the next; half of 512 stay in a cache."""

_CHAINS = 16
"""Sums that take turns, so that a dot product need not wait for the one before (4 or 5 cycles)."""

_PREFETCH_BYTES = 4096


def write(matrix: Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    """The kernel's statements: multiply as the weights are read, or unpack them for many rows."""
    with (
        T.attr(T.int32(0), "pragma_import_llvm", IMPORTED),
        T.If(rows <= _FEW_ROWS),
    ):
        with T.Then():
            _few_rows(matrix, weights, q, acc, rows)
        with T.Else():
            _many_rows(matrix, weights, q, acc, rows)


def _few_rows(matrix: Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    """Tiles with all rows; nothing that is unpacked is written to memory.

    The weights are read once, in the order of memory, prefetched further ahead than the hardware
    alone does: for one row tile after tile, for several in as many parts as tiles are taken at a
    time.  Bound: reading them for one row; for several, a dot product for each word and row.
    """
    sums = row_sums(matrix, q, T.int64(0), rows, _FEW_ROWS, add_bytes)

    def multiply(row: Any, height: int, tiles: list[Any]) -> None:
        start = T.Bind(row * matrix.q_words)
        if len(tiles) == 1:
            totals = [_stream(matrix, weights, tiles[0], q, start)]
        else:
            totals = _block(matrix, weights, tiles, q, start, height)
        for place, total in enumerate(totals):
            at = row + place // len(tiles)
            result = T.Bind(total - splat(sums[at], 16, "int32"))
            store_tile(matrix, acc, at, tiles[place % len(tiles)], result)

    with T.If(rows == 1):
        with T.Then():
            share(matrix.tiles, lambda tile: multiply(T.int64(0), 1, [tile]))
        with T.Else():
            part = -(-matrix.tiles // _GROUP_TILES)

            def multiply_tiles(first: Any) -> None:
                tiles = [first + part * place for place in range(_GROUP_TILES)]
                _in_groups(rows, _GROUP_ROWS, lambda row, height: multiply(row, height, tiles))

            share(part, multiply_tiles)


def _in_groups(count: Any, size: int, multiply: Callable[[Any, int], None]) -> None:
    """Call `multiply(first, height)` for rows 0 to `count`: groups of `size`, then 4, 2 and 1."""
    groups = T.Bind(T.floordiv(count, size))
    with T.serial(0, groups) as group:
        multiply(group * size, size)
    rest = T.Bind(count - groups * size)
    for height in (4, 2, 1):
        with T.If(T.floormod(T.floordiv(rest, height), 2) == 1), T.Then():
            taken = T.floordiv(rest, 2 * height) * (2 * height)
            multiply(groups * size + taken, height)


def _load(matrix: Matrix, run: Run, weights: Any, tile: Any, block: Any) -> list[Vector]:
    """Load the vectors of a block, and prefetch as many; past a tile the next one follows.

    A tile past the end repeats the last one.
    """
    count = BLOCKS[run.layout].vectors
    vector = T.min(tile, matrix.tiles - 1) * matrix.tile_vectors + run.first_vector + block * count
    start = T.Bind(vector * VECTOR_BYTES)
    loaded: list[Vector] = []
    for offset in range(0, count * VECTOR_BYTES, VECTOR_BYTES):
        prefetch(weights, start + offset + _PREFETCH_BYTES, 1)
        loaded.append(T.Bind(weights.vload([start + offset], "uint8x64")))
    return loaded


def _stream(matrix: Matrix, weights: Any, tile: Any, q: Any, start: Any) -> Vector:
    """A tile with one row of q: as few instructions as the reading of the weights hides.

    2bit: the bits of a word stay where they are; its sum is 4^s times too large, and is shifted
    once at the end.  1.6bit: likewise, with four digits of 2 bits looked up, and the fifth.
    """
    total = splat(0, 16, "int32")
    for run in matrix.runs:
        words = BLOCKS[run.layout].words
        registers = zero_registers({"2bit": 4, "1.67bit": 8, "1.6bit": 5}[run.layout])
        with T.serial(0, run.blocks) as block:
            vectors = _load(matrix, run, weights, tile, block)
            for word, factor in enumerate(_factors(run.layout, vectors)):
                spread = T.Bind(T.broadcast(q[start + run.first_word + block * words + word], 16))
                dot(registers[word % len(registers)], factor, spread)
        total = total + _combine(run.layout, [register[0] for register in registers])
    return total


def _factors(layout: Layout, vectors: list[Vector]) -> list[Vector]:
    """For each word, the bytes that its word of q is multiplied with."""
    if layout == "1.67bit":
        return digits_of(layout, vectors)
    return [byte & splat(3 << bit, 64, "uint8") for byte, bit in in_place(layout, vectors)]


def _combine(layout: Layout, sums: list[Vector]) -> Vector:
    """The sum over all words of digit times q, from the sums with `_factors`."""
    if layout == "1.67bit":
        return sum(sums[1:], sums[0])
    bits = (0, 2, 4, 6, 6)[: len(sums)]
    shifted = [T.shift_right(s, splat(b, 16, "int32")) for s, b in zip(sums, bits, strict=True)]
    return sum(shifted[1:], shifted[0])


def _block(
    matrix: Matrix, weights: Any, tiles: list[Any], q: Any, start: Any, height: int
) -> list[Vector]:
    """Tiles with several rows of q, row by row: each digit is unpacked once, in registers."""
    count = height * len(tiles)
    slots = _CHAINS // count
    sums = [zero_registers(slots) for _ in range(count)]
    for run in matrix.runs:
        words = BLOCKS[run.layout].words
        with T.serial(0, run.blocks) as block:
            loaded = [_load(matrix, run, weights, tile, block) for tile in tiles]
            digits = [digits_of(run.layout, vectors) for vectors in loaded]
            for word, parts in enumerate(zip(*digits, strict=True)):
                parts = list(map(T.Bind, parts))
                index = start + run.first_word + block * words + word
                for row in range(height):
                    spread = T.Bind(T.broadcast(q[row * matrix.q_words + index], 16))
                    for tile, digit in enumerate(parts):
                        dot(sums[row * len(tiles) + tile][word % slots], digit, spread)
    return [sum((slot[0] for slot in registers[1:]), registers[0][0]) for registers in sums]


def _many_rows(matrix: Matrix, weights: Any, q: Any, acc: Any, rows: Any) -> None:
    """Unpack four tiles at a time into bytes, then 4 tiles x 6 rows of q in registers.

        panel [4 tiles][words][64 bytes]      the digits of 64 weight rows, from the second cache

    24 sums stand in registers; a word costs 4 loads, 6 broadcasts from memory and 24 dot products.
    Bound: one or two dot products per cycle.  The rows left over go in smaller groups.
    """
    with T.serial(0, T.ceildiv(rows, _PART_ROWS)) as part:
        first = T.Bind(part * _PART_ROWS)
        count = T.Bind(T.min(rows - first, T.int64(_PART_ROWS)))
        sums = row_sums(matrix, q, first, count, _PART_ROWS, add_bytes)

        def multiply_group(group: Any) -> None:
            panel = T.alloc_buffer((_PANEL_TILES * _panel_tile(matrix),), "uint8")
            _unpack_panel(matrix, weights, group * _PANEL_TILES, panel)

            def columns(row: Any, height: int) -> None:
                _panel_rows(matrix, panel, q, acc, sums, group * _PANEL_TILES, first, row, height)

            _in_groups(count, _PANEL_ROWS, columns)

        share(-(-matrix.tiles // _PANEL_TILES), multiply_group)


def _panel_tile(matrix: Matrix) -> int:
    """Bytes from a tile of a panel to the next."""
    return matrix.words * VECTOR_BYTES + _PANEL_PAD


def _unpack_panel(matrix: Matrix, weights: Any, first: Any, panel: Any) -> None:
    """Write the digits of `_PANEL_TILES` tiles."""
    with T.serial(0, _PANEL_TILES) as place:
        tile = T.Bind(first + place)
        for run in matrix.runs:
            words = BLOCKS[run.layout].words
            with T.serial(0, run.blocks) as block:
                vectors = _load(matrix, run, weights, tile, block)
                for word, digits in enumerate(digits_of(run.layout, vectors)):
                    index = run.first_word + block * words + word
                    start = place * _panel_tile(matrix) + index * VECTOR_BYTES
                    T.buffer_store(panel, digits, [T.ramp(start, 1, VECTOR_BYTES)])


def _panel_rows(
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
    """Multiply a panel with `height` rows of q, from row `first_row + row` on.

    The lines of the result are asked for one after the other while the words go by: all at once, or
    at the end, they would keep those of the panel waiting.
    """
    totals = [zero_registers(_PANEL_TILES) for _ in range(height)]
    start = T.Bind((first_row + row) * matrix.q_words)

    def multiply(word: Any) -> None:
        digits = [
            T.Bind(panel.vload([tile * _panel_tile(matrix) + word * VECTOR_BYTES], "uint8x64"))
            for tile in range(_PANEL_TILES)
        ]
        for column, registers in enumerate(totals):
            spread = T.Bind(T.broadcast(q[start + column * matrix.q_words + word], 16))
            for tile, register in enumerate(registers):
                dot(register, digits[tile], spread)

    def multiply_turn(turn: Any) -> None:
        for word in range(_PANEL_WORDS):
            multiply(turn * _PANEL_WORDS + word)

    turns, rest = divmod(matrix.words, _PANEL_WORDS)
    lines = height * _PANEL_TILES
    each = turns // lines
    with T.serial(0, lines) as line:
        at = (first_row + row + T.floordiv(line, _PANEL_TILES)) * matrix.n
        prefetch(acc, at + (first_tile + T.floormod(line, _PANEL_TILES)) * TILE_ROWS, 1, write=True)
        with T.serial(0, each) as turn:
            multiply_turn(line * each + turn)
    with T.serial(lines * each, turns) as turn:
        multiply_turn(turn)
    for word in range(rest):
        multiply(turns * _PANEL_WORDS + word)
    for column, registers in enumerate(totals):
        for tile, register in enumerate(registers):
            result = T.Bind(register[0] - splat(sums[row + column], 16, "int32"))
            store_tile(matrix, acc, first_row + row + column, first_tile + tile, result)
