"""What a token engine takes of an FPGA: a model of its structure, calibrated on yosys.

The engine's part follows from its formula (adders, tables, memories, bit by bit); what a lane of
the vector units and the rest take is measured.  Tests compare the model with runs of yosys, which
tests/data/fpga_synthesised.py makes and writes down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mmc.targets.fpga.boards import Board

SUM_BITS = 24
TABLE_BITS = 10
SHAPES = ((512, 72), (1024, 36), (2048, 18), (4096, 9), (8192, 4), (16384, 2), (32768, 1))
"""Depth and width of a block of 36 kbit."""
URAM_DEPTH, URAM_WIDTH = 4096, 72
DISTRIBUTED = 64
"""Words of a memory that is made of look-up tables at most."""


@dataclass(frozen=True)
class Resources:
    """Counts of what an FPGA has; block RAM in halves of 36 kbit."""

    lut: float = 0.0
    ff: float = 0.0
    bram36: float = 0.0
    uram: float = 0.0
    dsp: float = 0.0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.lut + other.lut, self.ff + other.ff, self.bram36 + other.bram36,
            self.uram + other.uram, self.dsp + other.dsp,
        )  # fmt: skip

    def too_much(self, board: Board, part: float) -> dict[str, tuple[float, float]]:
        """What takes more than that part of the board, by name: (needed, there)."""
        pairs = {
            name: (getattr(self, name), part * getattr(board, name))
            for name in ("lut", "ff", "bram36", "uram", "dsp")
        }
        return {name: pair for name, pair in pairs.items() if pair[0] > pair[1]}


def memory(width: int, depth: int, uram: bool = False) -> Resources:
    """A memory with one write port and one read port, as yosys maps it."""
    if depth <= DISTRIBUTED:
        bits_of_eight = 14 if depth <= 32 else 7
        return Resources(lut=8 * math.ceil(width / bits_of_eight))
    if uram:
        return Resources(uram=math.ceil(width / URAM_WIDTH) * math.ceil(depth / URAM_DEPTH))
    return Resources(bram36=min(_blocks(width, depth, *shape) for shape in SHAPES))


def _blocks(width: int, depth: int, words: int, bits: int) -> float:
    """Blocks of one shape; a half block of half the width for what is left."""
    columns = math.floor(width / bits)
    rest = width - columns * bits
    return math.ceil(depth / words) * (
        columns + (0 if rest == 0 else 0.5 if 2 * rest <= bits else 1)
    )


def tree_bits(n: int, width: int) -> tuple[int, int]:
    """Look-up tables and registers of ternary_adder_tree."""
    most = width + math.ceil(math.log2(n))
    tables = registers = 0
    while n > 1:
        width = min(width + 2, most)
        tables += (n + 1) // 3 * width
        n = math.ceil(n / 3)
        registers += n * width
    return tables, registers


def engine(parameters: Mapping[str, int]) -> Resources:
    """ternary_engine with its table writer, buffers and partial sums."""
    rows, groups, lanes = parameters["P"], parameters["GROUPS"], parameters["LANES"]
    fives = parameters["CODEC"] == 2
    tables, columns = groups * (2 if fives else 1), groups * (5 if fives else 3)
    adders, registers = tree_bits(tables, TABLE_BITS)
    decode = rows * groups * DECODE_LUT[parameters["CODEC"]]
    # The sums that are read come out of a register of the block RAM where they lie in one.
    stages = 2 if parameters["Y_WORDS"] > DISTRIBUTED else 3
    logic = Resources(
        lut=rows * (adders + SUM_BITS + 8 * tables) + tables * WRITER_LUT + decode + CONTROL_LUT,
        ff=rows * (registers + tables * (TABLE_BITS + 5) + stages * SUM_BITS + COPIES)
        + tables * WRITER_FF + 8 * columns + 8 * lanes + CONTROL_FF,
    )  # fmt: skip
    return (
        logic
        + memory(8 * lanes, parameters["X_WORDS"])
        + memory(rows * SUM_BITS, parameters["Y_WORDS"])
    )


DECODE_LUT = (5.0, 0.0, 5.0)
"""Of a group of weights, by codec."""
WRITER_LUT, WRITER_FF = 19, 28
"""Of a table: 11 bits of accumulator and 8 of choice; registers of both and of the entry."""
COPIES = 7
"""Registers of a row for what goes to all of its tables."""
CONTROL_LUT, CONTROL_FF = 280, 30

LANE = Resources(lut=1115, ff=2229, bram36=2.0, dsp=10)
"""Of the vector units, without their memories; two tables of the sigmoid."""
REST = Resources(lut=1210, ff=1305, dsp=1)
"""Scalar unit, sequencer with its program, readers."""


def token_engine(parameters: Mapping[str, int], board: Board) -> Resources:
    """token_engine with everything in it; large memories go where the board has UltraRAM."""
    lanes = parameters["LANES"]
    longest = max(parameters["X_WORDS"], parameters["P_WORDS"])
    beat = parameters["P"] * parameters["GROUPS"] * (6, 5, 8)[parameters["CODEC"]]
    vectors = (
        (27, parameters["X_WORDS"]), (27, parameters["P_WORDS"]), (18, longest), (16, longest),
        (18, parameters["F_WORDS"]), (16, parameters["F_WORDS"]), (18, parameters["P_WORDS"]),
        (16, READ_AHEAD),
    )  # fmt: skip
    total = engine({**parameters, "X_WORDS": parameters["Q_WORDS"]}) + REST + Resources(ff=beat)
    for width, depth in vectors:
        total += memory(lanes * width, depth)
    for width, depth in ((lanes * 27, parameters["H_WORDS"]), (beat, parameters["AHEAD"])):
        total += memory(width, depth, uram=board.uram > 0 and depth > LARGE)
    return total + Resources(
        lanes * LANE.lut, lanes * LANE.ff, lanes * LANE.bram36, dsp=lanes * LANE.dsp
    )


READ_AHEAD = 64
"""Words of constants that are read ahead."""
LARGE = 512
"""Words from which on a memory goes to UltraRAM."""
