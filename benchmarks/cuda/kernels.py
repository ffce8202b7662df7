"""Products and the recurrence alone.

Sets of a layer's matrices follow one another, so many that each weight comes from memory.  All
sides are CUDA graphs; a figure is the time of one set.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.cpu.measure import table
from benchmarks.cuda.models import executable
from benchmarks.cuda.prepare import GATE, copies, distinct, sets
from benchmarks.cuda.settings import Settings
from benchmarks.cuda.timing import Run, graphed, in_turn
from benchmarks.cuda.w2a8 import W2a8
from mmc.ir.packing import Layout, packed_bytes
from mmc.targets.cuda.executable import CudaExecutable

Matrices = tuple[tuple[int, int], ...]

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
BF16_BYTES = 160e6


@cache
def kernels(prepared: Path) -> CudaExecutable:
    return executable(prepared / "kernels")


def gemv(settings: Settings) -> list[str]:
    """One row: a layer's matrices for each shape, and the gate of the largest."""
    chosen = sets(settings.shapes)
    needed = {matrix for each in chosen.values() for matrix in each}
    peer = W2a8(settings.w2a8, needed) if settings.w2a8 else None
    limit = kernels(settings.prepared).meter().read_limit()
    assert limit is not None
    rows: list[list[object]] = []
    for (name, layout), matrices in chosen.items():
        found = products(settings, name, layout, matrices, 1, peer)
        size = sum(packed_bytes(n, k, layout) for n, k in matrices)
        ours, rate = found["ours"], size / found["ours"]
        rows.append([
            name.replace("-", " of "), layout.replace("bit", ""), f"{1e6 * ours:.2f}",
            f"{rate / 1e9:.0f}", f"{rate / limit:.2f}", *against(found, "bf16"),
            *against(found, "w2a8"),
        ])  # fmt: skip
    columns = (
        "matrices", "bits", "ours, us", "GB/s", f"part of {limit / 1e9:.0f} GB/s",
        "torch bf16, us", "ratio", "W2A8, us", "ratio",
    )  # fmt: skip
    left_out = [] if peer else ["", "Not measured: W2A8 (no --w2a8)."]
    return [*table(columns, rows), *left_out]


def batch(settings: Settings) -> list[str]:
    """Several rows, beside bf16."""
    found: list[list[object]] = []
    for (name, layout), matrices in sets(settings.shapes).items():
        for rows in ROWS if name != GATE else ():
            times = products(settings, name, layout, matrices, rows, None)
            shown = f"{1e6 * times['ours']:.1f}", *against(times, "bf16")
            found.append([name.removeprefix("layer-"), layout.replace("bit", ""), rows, *shown])
    return table(("layer of", "bits", "rows", "ours, us", "torch bf16, us", "ratio"), found)


def against(found: dict[str, float], peer: str) -> list[str]:
    """Microseconds of a peer, and how much longer that is than ours."""
    if peer not in found:
        return ["", ""]
    return [f"{1e6 * found[peer]:.1f}", f"{found[peer] / found['ours']:.2f}"]


def products(
    settings: Settings, name: str, layout: Layout, matrices: Matrices, rows: int,
    peer: W2a8 | None,
) -> dict[str, float]:  # fmt: skip
    """Seconds of one set of matrices for each side."""
    random = np.random.default_rng(0)
    wide = {k: random.integers(-128, 128, (rows, k), np.int8) for _, k in matrices}
    given = {f"q{k}": q for k, q in wide.items()}
    programs: dict[str, Run] = {
        "ours": kernels(settings.prepared).repeated(f"{name}-{layout}", given),
        "bf16": bf16(matrices, rows),
    }
    if peer is not None:
        programs["w2a8"] = packed(matrices, peer)
    times = in_turn(programs, settings.rounds)
    each = {
        "ours": copies(matrices, layout), "bf16": bf16_sets(matrices),
        "w2a8": copies(matrices, "2bit"),
    }  # fmt: skip
    return {key: time / each[key] for key, time in times.items()}


def bf16_sets(matrices: Matrices) -> int:
    return -(-int(BF16_BYTES) // sum(2 * n * k for n, k in matrices))


def bf16(matrices: Matrices, rows: int) -> Run:
    """torch's products of the same sizes."""
    make: Callable[..., torch.Tensor] = torch.randn
    options = {"dtype": torch.bfloat16, "device": "cuda"}
    given = {k: make(rows, k, **options) for _, k in matrices}
    weights = [make(n, k, **options) for _ in range(bf16_sets(matrices)) for n, k in matrices]
    return graphed(lambda: [F.linear(given[w.shape[1]], w) for w in weights])


def packed(matrices: Matrices, kernel: W2a8) -> Run:
    """Microsoft's kernel on random bytes: any is a weight to it."""
    options = {"dtype": torch.int8, "device": "cuda"}
    weights = [
        (torch.randint(-128, 128, (n, k // 4), **options),
         torch.empty(1, n, dtype=torch.bfloat16, device="cuda"))
        for _ in range(copies(matrices, "2bit")) for n, k in matrices
    ]  # fmt: skip
    given = {k: torch.randint(-128, 128, (1, k), **options) for _, k in matrices}

    def run() -> None:
        for w, y in weights:
            kernel(given[4 * w.shape[1]], w, y)

    return graphed(run)


def scan(settings: Settings) -> list[str]:
    """The recurrence with its gates over a prompt."""
    rows: list[list[object]] = []
    for name, shape in distinct(settings.shapes).items():
        sizes = 1, settings.prompt, shape.width
        random = np.random.default_rng(0)
        given = {key: random.standard_normal(sizes, np.float32) for key in "fcg"}
        given["h0"] = np.zeros((1, shape.width), np.float32)
        run = kernels(settings.prepared).repeated(f"scan-{name}", given)
        found = in_turn({"ours": run}, settings.rounds)["ours"]
        rate = 4 * 4 * settings.prompt * shape.width / found / 1e9
        rows.append([name, settings.prompt, shape.width, f"{1e6 * found:.1f}", f"{rate:.0f}"])
    return table(("shape", "steps", "columns", "us", "GB/s"), rows)
