"""The sections that set MMC beside its peers: a table for each shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.cpu.measure import Program, Rates, in_turn, table
from benchmarks.cpu.models import EMBEDDINGS
from benchmarks.cpu.programs import litespark, llama, mmc
from benchmarks.cpu.settings import Settings

BITNET = "2b-4t"
COLUMNS = (
    "threads", "test", "program", "weights", "embedding; head", "t/s, CPU time", "t/s, wall",
)  # fmt: skip


def native(settings: Settings, shape: str) -> list[str]:
    """Every program at its best on this processor."""
    own = [
        mmc(settings, shape, weights, embedding=embedding)
        for embedding in EMBEDDINGS.get(shape, (None,))
        for weights in settings.layouts
    ]
    peers: list[Program] = []
    left_out: list[str] = []
    if settings.llama_bench:
        types = settings.llama_types or llama_types(shape)
        peers += [llama(settings, settings.llama_bench, shape, kind) for kind in types]
    else:
        left_out.append("llama.cpp (no --llama-bench)")
    if shape == BITNET and settings.litespark:
        peers.append(litespark(settings, settings.litespark))
    elif shape == BITNET:
        left_out.append("litespark-inference (no --litespark)")
    return compared(settings, own, peers, left_out)


def llama_types(shape: str) -> tuple[str, ...]:
    """The ternary types; what is not ternary is shown for one shape."""
    if shape == BITNET:
        return ("tq2_0/q8_0", "tq2_0/q4_0")
    return ("tq2_0", "tq1_0", "q4_0", "f16") if shape == "1.3b" else ("tq2_0", "tq1_0")


def without_avx512(settings: Settings, shape: str) -> list[str]:
    """Both sides in code for AVX2."""
    usual = EMBEDDINGS.get(shape, (None,))[0]
    own = [mmc(settings, shape, weights, settings.isa, usual) for weights in settings.layouts]
    if not settings.llama_bench_avx2:
        return compared(settings, own, [], ["llama.cpp (no --llama-bench-avx2)"])
    types = settings.llama_types or ("tq2_0", "tq1_0")
    peers = [llama(settings, settings.llama_bench_avx2, shape, kind) for kind in types]
    return compared(settings, own, peers, [])


def compared(
    settings: Settings, own: Sequence[Program], peers: Sequence[Program], left_out: Sequence[str]
) -> list[str]:
    """The table, and which peers are not in it."""
    rows: list[list[object]] = []
    for threads in settings.threads:
        found = in_turn([*own, *peers], threads, settings.repeats)
        for test in found[own[0].name]:
            rows += [[threads, test, *row(program, test, own, found)] for program in (*own, *peers)]
    missing = [f"\nNot measured: {', '.join(left_out)}."] if left_out else []
    return [*table((*COLUMNS, *(f"{one.name} is" for one in own)), rows), *missing]


def row(
    program: Program, test: str, own: Sequence[Program], found: Mapping[str, Rates]
) -> list[object]:
    """One program's rates, and how much faster MMC is, by CPU time and by the wall."""
    rate = found[program.name][test]
    ratios = ["" if program in own else found[mine.name][test].over(rate) for mine in own]
    rates = [f"{rate.cpu:.2f}", f"{rate.wall:.2f}"]
    return [program.name, program.weights, program.outer, *rates, *ratios]
