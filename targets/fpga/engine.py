"""The size of the engine, and how a ternary matrix lies in memory for it.

A beat is what the engine takes in a cycle: the weights of `rows` rows and `columns` columns.

    for each slice of `columns` columns            the tables hold sums of these inputs
        for each block of `rows` rows              a beat: code (row, group) at bit
            ...                                      (row * groups + group) * codec.bits

Rows and columns are filled up with weight 0, a beat with zero bits to whole words of all ports.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmc.errors import MmcError
from mmc.targets.fpga.codec import CODECS, Codec


@dataclass(frozen=True)
class Engine:
    """rows * columns weights a cycle, from `ports` memory ports of `word_bits` bits each."""

    rows: int
    columns: int
    codec_name: str
    lanes: int
    """Numbers of a vector that are worked on in a cycle."""
    word_bits: int
    ports: int

    def __post_init__(self) -> None:
        codec = self.codec
        if self.columns % codec.trits:
            raise MmcError(f"{self.columns} columns are not whole codes of {codec.trits} trits")
        if self.rows * self.groups * codec.bits > self.ports * self.word_bits:
            raise MmcError(
                f"a beat of {self.rows} x {self.columns} weights in {codec.name} does not fit "
                f"{self.ports} x {self.word_bits} bits"
            )

    @property
    def codec(self) -> Codec:
        return CODECS[self.codec_name]

    @property
    def groups(self) -> int:
        """Codes of a row in a beat."""
        return self.columns // self.codec.trits

    @property
    def beat_bytes(self) -> int:
        return self.ports * self.word_bits // 8

    def slices(self, columns: int) -> int:
        return -(-columns // self.columns)

    def blocks(self, rows: int) -> int:
        return -(-rows // self.rows)

    def beats(self, rows: int, columns: int) -> int:
        """Beats of a matrix."""
        return self.slices(columns) * self.blocks(rows)

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Weights int8 [rows, columns] as beats u8 [beats, beat_bytes]."""
        rows, columns = weights.shape
        blocks, slices = self.blocks(rows), self.slices(columns)
        whole = np.zeros((blocks * self.rows, slices * self.columns), np.int8)
        whole[:rows, :columns] = weights
        split = whole.reshape(blocks, self.rows, slices, self.groups, self.codec.trits)
        codes = self.codec.encode(split.transpose(2, 0, 1, 3, 4)).reshape(blocks * slices, -1)
        bits = codes[..., None] >> np.arange(self.codec.bits, dtype=np.uint8) & 1
        packed = np.packbits(bits.reshape(len(codes), -1), axis=1, bitorder="little")
        beats = np.zeros((len(codes), self.beat_bytes), np.uint8)
        beats[:, : packed.shape[1]] = packed
        return beats

    def unpack(self, beats: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """The weights of `pack`."""
        blocks, slices, width = self.blocks(rows), self.slices(columns), self.codec.bits
        used = self.rows * self.groups * width
        bits = np.unpackbits(beats, axis=1, bitorder="little")[:, :used]
        codes = (bits.reshape(len(beats), -1, width) << np.arange(width, dtype=np.uint8)).sum(-1)
        split = self.codec.decode(codes.astype(np.uint8)).reshape(
            slices, blocks, self.rows, self.groups, self.codec.trits
        )
        whole = split.transpose(1, 2, 0, 3, 4).reshape(blocks * self.rows, slices * self.columns)
        return whole[:rows, :columns]
