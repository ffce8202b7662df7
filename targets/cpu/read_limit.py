# pyright: basic
# Every value here is a TIR expression, which TVM does not type.
"""What this machine reads from memory: the bound of decoding, measured as kernels read.

Vector loads of 64 bytes with a prefetch ahead, shared among threads as kernels share, over a buffer
that no cache holds.  Processors differ in which cache a prefetch had better go to: the faster one
counts.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from mmc.targets.cpu.features import Isa, choose_isa
from mmc.targets.cpu.huge_pages import huge_memory
from mmc.targets.cpu.processor import PROCESSORS
from mmc.targets.cpu.share import share
from mmc.targets.tvm.host import Entry, KernelCall, Tensor, build, make_kernel
from mmc.targets.tvm.loader import Program, aligned_zeros, as_tensor, set_threads
from mmc.targets.tvm.memory import prefetch

BUFFER_BYTES = 512 << 20
PREFETCH_BYTES = 4096
PREFETCH_CACHES = (1, 2)
"""Into the first or the second."""
_UNROLL = 8
_PIECES = 512
_BLOCKS = BUFFER_BYTES // (64 * _UNROLL * _PIECES)


@dataclass
class ReadLimit:
    """Measures; keep one for a run, so that its buffer is made once."""

    def __post_init__(self) -> None:
        program = Program(_object(choose_isa()))
        self._reads = [program[f"read_{cache}"] for cache in PREFETCH_CACHES]
        self._buffer = huge_memory(BUFFER_BYTES)
        self._buffer[:: 1 << 12] = 1  # every page is there
        self._sums = aligned_zeros(64 * _PIECES)

    def __call__(self, threads: int) -> float:
        """Bytes a second by CPU time, all threads together."""
        set_threads(threads)
        rates: list[float] = []
        for read in self._reads:
            began = time.process_time()
            read(as_tensor(self._buffer), as_tensor(self._sums))
            rates.append(BUFFER_BYTES / ((time.process_time() - began) / threads))
        return max(rates)


@functools.cache
def _object(isa: Isa) -> bytes:
    parameters = {"bytes": "int32*", "sums": "int32*"}
    entries: list[Entry] = []
    for cache in PREFETCH_CACHES:
        body = functools.partial(_read_all, cache)
        kernel = make_kernel(f"read_all_{cache}", parameters, body)
        buffer, sums = Tensor("buffer", 64), Tensor("sums", 64)
        call = KernelCall(kernel, (buffer.at(), sums.at()))
        entries.append(Entry(f"read_{cache}", (buffer, sums), (), (call,)))
    return build(entries, PROCESSORS[isa].target)


def _read_all(cache: int, data: Any, sums: Any) -> None:
    """Each piece adds up runs of eight vectors, or LLVM would drop the loads."""

    def read(piece: Any) -> None:
        totals = [T.alloc_buffer((1,), "int32x16") for _ in range(_UNROLL)]
        for total in totals:
            T.buffer_store(total, T.broadcast(T.int32(0), 16), [0])
        with T.serial(0, _BLOCKS) as block:
            start = T.Bind((piece * _BLOCKS + block) * (16 * _UNROLL))
            for lane, total in enumerate(totals):
                prefetch(data, start + lane * 16 + PREFETCH_BYTES // 4, cache)
                loaded = data.vload([start + lane * 16], "int32x16")
                T.buffer_store(total, total[0] + loaded, [0])
        every = sum((total[0] for total in totals[1:]), totals[0][0])
        T.buffer_store(sums, every, [T.ramp(piece * 16, 1, 16)])

    share(_PIECES, read)
