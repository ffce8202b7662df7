"""A whole model on one FPGA: weights in block RAM, simulated, then as a bitstream for an ECP5."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmc.errors import MmcError
from mmc.targets.fpga import program
from mmc.targets.fpga.cycles import token_cycles
from mmc.targets.fpga.simulation import RTL, build, run
from mmc.targets.fpga.written import Written, prepare

BANK = 2048
"""Words of a bank in block_memory.sv."""
BLOCK_BITS = 9
"""Of such a word that a block RAM of an ECP5 holds."""
BLOCKS = 208
"""Of an ECP5-85k."""
TOKENS = 16
"""Tokens that the simulated chip is compared for."""


@dataclass(frozen=True)
class Chip:
    """The contents of chip.sv's memories for a compiled model."""

    written: Written
    weights: np.ndarray
    """u8 [beats, bytes]."""
    constants: np.ndarray
    """u8 [words, bytes]: the embedding, gains and bounds."""
    embedding_words: int

    @staticmethod
    def of(written: Written) -> Chip:
        plan, engine, tensors = written.plan, written.engine, written.tensors
        beats = np.frombuffer(program.weights(plan, tensors, engine), np.uint8)
        embedding = program.embedding(plan, tensors, engine)
        both = np.concatenate([embedding, program.constants(plan, tensors, engine)])
        return Chip(
            written, beats.reshape(-1, program.beat_bytes(engine)), both.view(np.uint8),
            len(embedding),
        )  # fmt: skip

    @property
    def blocks(self) -> int:
        """Block RAMs of weights and constants."""
        widths = ((self.weights, self._beat_bits), (self.constants, 16 * self.written.engine.lanes))
        return sum(-(-len(words) // BANK) * -(-bits // BLOCK_BITS) for words, bits in widths)

    @property
    def _beat_bits(self) -> int:
        engine = self.written.engine
        return engine.rows * engine.groups * engine.codec.bits

    def parameters(self) -> dict[str, int]:
        """Of chip.sv."""
        plan = self.written.plan
        return {
            **program.parameters(plan, self.written.engine), "TOKENS": plan.vocabulary,
            "WEIGHTS": len(self.weights), "CONSTANTS": len(self.constants) - self.embedding_words,
        }  # fmt: skip

    def write(self, folder: Path) -> Path:
        """The tables that the RTL reads; raise MmcError where they are too large."""
        if self.blocks > BLOCKS:
            raise MmcError(
                f"weights and constants take {self.blocks} block RAMs of {BLOCKS}",
                "the bitstream", "take a smaller model",
            )  # fmt: skip
        prepare(self.written, folder)
        for name, words in (("weights", self.weights), ("constants", self.constants)):
            for bank, at in enumerate(range(0, len(words), BANK)):
                text = _hex(words[at : at + BANK], BANK)
                (folder / f"{name}_{bank}.hex").write_text(text)
        return folder

    def record(self) -> dict[str, Any]:
        """How large the model is."""
        plan = self.written.plan
        ternary = sum(p.rows * p.columns for p in plan.phases if p.matrix is not None)
        return {
            "hidden": plan.hidden, "vocabulary": plan.vocabulary, "ternary_weights": ternary,
            "embedding": plan.vocabulary * plan.hidden,
            "blocks_of_weights_and_constants": self.blocks,
        }  # fmt: skip


def _hex(words: np.ndarray, count: int) -> str:
    """Words of bytes, the lowest first, as $readmemh takes them; filled up with zero."""
    lines = [bytes(word[::-1]).hex() for word in words]
    return "\n".join([*lines, *["0"] * (count - len(lines)), ""])


def simulate(chip: Chip, folder: Path) -> Mapping[str, Any]:
    """Tokens through the chip by Verilator; raise MmcError unless the interpreter says the same."""
    written = chip.written
    random = np.random.default_rng(0)
    ids = [int(n) for n in random.integers(0, written.plan.vocabulary, TOKENS)]
    simulator = build("chip", chip.parameters(), RTL / "chip_bench.cpp", folder)
    said = run(simulator, struct.pack(f"<{TOKENS + 1}q", TOKENS, *ids))
    cycles, likeliest = np.frombuffer(said, "<i8").reshape(-1, 2).T.tolist()
    if likeliest != written.logits(ids).argmax(-1).tolist():
        raise MmcError("the chip's tokens are not the interpreter's", str(folder), "a defect")
    rows = program.program(written.plan, written.engine)
    return {
        "identical_tokens": TOKENS, "cycles": max(cycles),
        "formula": token_cycles(rows, written.engine),
    }  # fmt: skip


def bitstream(folder: Path, choice: object) -> Mapping[str, Any]:
    """The whole model as a bitstream for an ECP5-85k: simulated, placed, routed and packed."""
    from mmc.targets.fpga.synthesis import place

    if choice != "ecp5":
        raise MmcError(f"no bitstream for {choice!r}", "bitstream", 'there is "ecp5"')
    chip = Chip.of(Written.for_rtl(folder))
    tables = chip.write(folder / "build" / "bitstream")
    simulated = simulate(chip, tables)
    placed = place("chip", chip.parameters(), tables, pack=True)
    rate = placed.mhz * 1e6 / simulated["cycles"]
    return {
        **chip.record(), **simulated, **placed.record(), "tokens_per_second": round(rate),
        "file": str(tables / "chip.bit"),
    }  # fmt: skip
