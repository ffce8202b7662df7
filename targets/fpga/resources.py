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

TABLE_BITS = 10
LARGEST_ENTRY = 3 * 128
READ_BITS = 14
"""Of eight look-up tables as memory with one write port, in pairs under addresses of their own."""
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
    if depth == 0:
        return Resources()
    if depth <= DISTRIBUTED:
        bits_of_eight = READ_BITS if depth <= 32 else 7
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


def tree_bits(n: int) -> tuple[int, int, int]:
    """Look-up tables, registers and the largest number of ternary_adder_tree over n entries."""
    largest = LARGEST_ENTRY
    widths = [TABLE_BITS] * n
    tables = registers = 0
    while len(widths) > 2:
        largest *= 3
        threes = len(widths) // 3
        sums = [1 + largest.bit_length()] * threes
        tables += sum(sums)
        widths = [*widths[3 * threes :], *sums]
        registers += sum(widths)
    return tables, registers, largest


def engine(parameters: Mapping[str, int]) -> Resources:
    """ternary_engine with its table writer, buffers and partial sums."""
    rows, groups, lanes = parameters["P"], parameters["GROUPS"], parameters["LANES"]
    fives = parameters["CODEC"] == 2
    tables, columns = groups * (2 if fives else 1), groups * (5 if fives else 3)
    adders, registers, largest = tree_bits(tables)
    sums = 1 + max(128 * lanes * parameters["X_WORDS"], largest).bit_length()
    memories = math.ceil(tables * TABLE_BITS / READ_BITS)
    decode = rows * groups * DECODE_LUT[parameters["CODEC"]]
    addresses = groups * (9 if fives else 5)
    # The sums that are read come out of a register of the block RAM where they lie in one.
    stages = 2 if parameters["Y_WORDS"] > DISTRIBUTED else 3
    logic = Resources(
        lut=rows * (adders + sums + 8 * memories) + groups * (WRITER_LUT + fives * TWO_LUT)
        + decode + CONTROL_LUT + ADDRESS_LUT * (parameters["X_WORDS"] - 1).bit_length(),
        ff=rows * (registers + tables * TABLE_BITS + addresses + stages * sums + COPIES)
        + groups * (WRITER_FF + fives * TWO_FF) + 8 * columns + 8 * lanes + CONTROL_FF,
    )  # fmt: skip
    return (
        logic
        + memory(8 * lanes, parameters["X_WORDS"])
        + memory(rows * sums, parameters["Y_WORDS"])
    )


DECODE_LUT = (5.0, 0.0, 4.0)
"""Of a group of weights, by codec."""
WRITER_LUT, WRITER_FF = 19, 28
"""Of a table: 11 bits of accumulator and 8 of choice; registers of both and of the entry."""
TWO_LUT, TWO_FF = 11, 20
"""Of a table of two activations: their choice is a part of the sum."""
COPIES = 7
"""Registers of a row for what goes to all of its tables."""
CONTROL_LUT, CONTROL_FF = 39, 30
ADDRESS_LUT = 8
"""Of a bit of the activations' address: counters of words and slices."""

LANE = Resources(lut=1123, ff=2206, bram36=2.0, dsp=10)
"""Of the vector units, without their memories; two tables of the sigmoid."""
REST = Resources(lut=1341, ff=1355, dsp=1)
"""Scalar unit, sequencer with its program, readers."""


def lut_per_weight(parameters: Mapping[str, int]) -> float:
    """Look-up tables of a token engine's ternary engine for each weight of a beat."""
    trits = parameters["P"] * parameters["GROUPS"] * (5 if parameters["CODEC"] == 2 else 3)
    return engine({**parameters, "X_WORDS": parameters["Q_WORDS"]}).lut / trits


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
