"""Run an artefact by its C simulation: the project's own C++, built as a library with g++."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmc.errors import MmcError
from mmc.ir.ops.attention import POSITION
from mmc.targets.base import Arrays, Meter

FLAGS = (
    "-std=c++17", "-O2", "-shared", "-fPIC", "-Wno-unknown-pragmas",
    "-fno-gnu-unique",  # or a second model in the process would read the table of the first
)  # fmt: skip
INCLUDES = ("include", "src", "csim")


@dataclass(frozen=True)
class _Cache:
    """The keys and values of one sequence, i16 [layers, 2, groups, context, width]."""

    numbers: np.ndarray
    position: int
    """How many positions are known."""
    append: bool = True
    """Whether tokens become known: not where they are padding."""


@dataclass(frozen=True)
class FpgaExecutable:
    """The library and the memory of the simulated board."""

    library: ctypes.CDLL
    banks: Sequence[np.ndarray]
    constants: np.ndarray
    embedding: np.ndarray
    states: Sequence[str]
    caches: Sequence[tuple[str, str]]
    """The names of each attention layer's keys and values."""
    vocabulary: int

    @staticmethod
    def open(folder: Path, built: Mapping[str, Any]) -> FpgaExecutable:
        """Build the library where it was not yet; MmcError where g++ is missing or fails."""
        library = ctypes.CDLL(str(simulation_library(folder)))
        weights = folder / "weights"
        return FpgaExecutable(
            library,
            [np.memmap(bank, np.uint8, mode="r") for bank in sorted(weights.glob("bank_*.bin"))],
            np.memmap(weights / "constants.bin", np.uint8, mode="r"),
            np.memmap(weights / "embedding.bin", np.uint8, mode="r"),
            built["states"],
            [(keys, values) for keys, values in built.get("caches", [])],
            library.mmc_vocabulary(),
        )

    def run(self, entry: str, inputs: Arrays) -> dict[str, np.ndarray]:
        ids, lengths = inputs["ids"], inputs["lengths"]
        position = inputs.get(POSITION, np.zeros(len(ids), np.int64))
        caches = self._caches(inputs, position)
        logits: list[np.ndarray] = []
        states: list[np.ndarray] = []
        for row, tokens in enumerate(ids):
            state = np.array([inputs[name][row] for name in self.states], np.int32)
            count, every = int(lengths[row]), entry == "forward"
            cache = _Cache(caches[row], int(position[row]))
            made = self._simulate(tokens[:count], state, cache, every)
            if every and count < len(tokens):  # logits behind the end, of which no state is kept
                padding = _Cache(caches[row], cache.position + count, append=False)
                rest = self._simulate(tokens[count:], state.copy(), padding, True)
                made = np.concatenate([made, rest])
            logits.append(made)
            states.append(state)
        last = {name: np.stack([s[n] for s in states]) for n, name in enumerate(self.states)}
        for n, names in enumerate(self.caches):
            last |= {name: caches[:, n, part] for part, name in enumerate(names)}
        return {"logits": np.stack(logits), POSITION: position + lengths, **last}

    def _caches(self, inputs: Arrays, position: np.ndarray) -> np.ndarray:
        """Copies of what is known of all caches, i16 [B, layers, 2, groups, context, width]."""
        if not self.caches:
            return np.zeros((len(position), 0), np.int16)
        first = inputs[self.caches[0][0]]
        made = np.zeros((len(first), len(self.caches), 2, *first.shape[1:]), np.int16)
        for n, names in enumerate(self.caches):
            for part, name in enumerate(names):
                for row, known in enumerate(np.maximum(position, 0)):
                    made[row, n, part, :, :known] = inputs[name][row, :, :known]
        return made

    def _simulate(
        self, tokens: np.ndarray, state: np.ndarray, cache: _Cache, every: bool
    ) -> np.ndarray:
        """Logits [tokens or 1, vocabulary]; state and cache are brought up to date in place."""
        ids = np.ascontiguousarray(tokens, np.int64)
        rows = len(ids) if every else 1
        sums = np.empty((rows, self.vocabulary), np.int32)
        scale = np.empty((rows, 2), np.int32)
        banks = (ctypes.c_void_p * len(self.banks))(*(bank.ctypes.data for bank in self.banks))
        self.library.mmc_run(
            banks, _pointer(self.constants), _pointer(self.embedding), _pointer(ids), len(ids),
            every, _pointer(state), _pointer(cache.numbers), cache.position, cache.append,
            _pointer(sums), _pointer(scale),
        )  # fmt: skip
        exact = sums.astype(np.int64) * scale[:, :1]
        return np.ldexp(exact.astype(np.float64), -scale[:, 1:]).astype(np.float32)

    def use_threads(self, count: int) -> None:
        if count != 1:
            raise MmcError(f"the C simulation has one thread, not {count}", "target fpga")

    def meter(self) -> Meter:
        return Meter()


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def simulation_library(folder: Path) -> Path:
    """The C simulation of a project, built once for its sources."""
    sources = sorted(p for name in INCLUDES for p in (folder / name).rglob("*.?pp"))
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:16]
    at = folder / "build" if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    library = at / f"mmc-csim-{digest}.so"
    if not library.exists():
        at.mkdir(exist_ok=True)
        compile_cpp(folder, [folder / "csim" / "library.cpp"], library, FLAGS)
    return library


def compile_cpp(folder: Path, sources: Sequence[Path], out: Path, flags: Sequence[str]) -> None:
    """Compile sources of a project; raise MmcError where there is no g++ or it fails."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise MmcError(f"{compiler} is not installed", "target fpga", "the C simulation needs it")
    unfinished = out.with_suffix(f".{os.getpid()}")
    includes = [f"-I{folder / name}" for name in INCLUDES]
    command = [compiler, *flags, *includes, *map(str, sources), "-o", str(unfinished)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MmcError(f"{compiler} failed: {done.stderr[:2000]}", str(folder))
    unfinished.replace(out)
