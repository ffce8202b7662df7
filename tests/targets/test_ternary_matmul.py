# pyright: basic
"""The ternary product on a CPU: every sum equal to numpy's, nothing read or written beside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmc.ir.packing import BLOCKS, MAX_COLUMNS, Layout, pack, packed_bytes
from mmc.targets.cpu.features import ISA_FLAGS, Isa, cpu_flags
from mmc.targets.cpu.processor import PROCESSORS, Processor, processor_named
from mmc.targets.cpu.ternary_matmul import ternary_matmul
from mmc.targets.layout import int8_row_bytes
from mmc.targets.tvm.host import Entry, KernelCall, Tensor, build, size_variable
from mmc.targets.tvm.loader import Program, aligned_zeros, as_tensor, set_threads

# Sizes below, at and above 16 rows, 2 and 4 tiles, and one block, one chunk and 320 columns.
SHAPES = [(1, 1), (16, 16), (13, 37), (33, 333), (64, 640), (151, 259), (100, 1301)]
LAYOUTS: list[Layout] = list(BLOCKS)
ROWS = [*range(1, 14), 20, 64, 485]
CANARY = 77


def processor_here(isa: Isa) -> Processor:
    """One that has the instruction set and that this machine can run; skip where there is none.

    AVX-512 has the dot product of AVX-VNNI in another encoding: the same kernel runs there.
    """
    stand_ins = ("avx_vnni", "avx512_vnni") if isa == "avx_vnni" else (isa,)
    for processor in (PROCESSORS[name] for name in stand_ins):
        if processor.flags <= cpu_flags():
            return processor
    pytest.skip(f"this CPU lacks {isa}")


def entry(n: int, k: int, layout: Layout, isa: Isa) -> Entry:
    rows = size_variable("rows")
    weights = Tensor("weights", packed_bytes(n, k, layout))
    q = Tensor("q", rows * int8_row_bytes(k))
    acc = Tensor("acc", rows * (n * 4))
    call = KernelCall(ternary_matmul(n, k, layout, isa), (weights.at(), q.at(), acc.at(), rows))
    return Entry(f"{n}x{k}_{layout}", (weights, q, acc), (rows,), (call,))


@pytest.fixture(scope="module", params=ISA_FLAGS)
def code(request: pytest.FixtureRequest) -> bytes:
    isa: Isa = request.param
    target = processor_here(isa).target
    return build([entry(n, k, layout, isa) for n, k in SHAPES for layout in LAYOUTS], target)


@pytest.fixture(scope="module")
def program(code: bytes) -> Program:
    set_threads(1)  # threads that wait for each other are slow where the CPUs are busy
    return Program(code)


def run(program: Program, trits: np.ndarray, activations: np.ndarray, layout: Layout) -> np.ndarray:
    """Multiply through the kernel; fails if it writes past the end of the sums."""
    (n, k), rows = trits.shape, len(activations)
    weights = aligned_zeros(packed_bytes(n, k, layout))
    weights[:] = pack(trits, layout)
    q = aligned_zeros(rows * int8_row_bytes(k))
    q.view(np.int8).reshape(rows, -1)[:, :k] = activations
    acc = aligned_zeros(rows * n * 4 + 128)
    acc[:] = CANARY
    program[f"{n}x{k}_{layout}"](as_tensor(weights), as_tensor(q), as_tensor(acc), rows)
    assert (acc[-128:] == CANARY).all()
    return acc[:-128].view(np.int32).reshape(rows, n)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("rows", ROWS)
def test_sums_are_exact(program: Program, n: int, k: int, layout: Layout, rows: int) -> None:
    random = np.random.default_rng([n, k, rows])
    trits = random.integers(-1, 2, (n, k), np.int8)
    activations = random.integers(-128, 128, (rows, k), np.int8)
    expected = activations.astype(np.int32) @ trits.T.astype(np.int32)
    np.testing.assert_array_equal(run(program, trits, activations, layout), expected)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="this machine has one CPU")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 7])
def test_threads_share_the_tiles(program: Program, layout: Layout, rows: int) -> None:
    set_threads(2)
    try:
        test_sums_are_exact(program, 151, 259, layout, rows)
    finally:
        set_threads(1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("activation", [-128, 127])
@pytest.mark.parametrize("trit", [-1, 0, 1])
def test_extreme_values(
    program: Program, layout: Layout, rows: int, activation: int, trit: int
) -> None:
    trits = np.full((100, 1301), trit, np.int8)
    activations = np.full((rows, 1301), activation, np.int8)
    assert (run(program, trits, activations, layout) == 1301 * activation * trit).all()


@pytest.mark.parametrize("isa", ISA_FLAGS)
def test_the_widest_matrix_does_not_overflow(isa: Isa) -> None:
    """At `MAX_COLUMNS` the largest sums in 32 bits are just below 2^31."""
    n, k = 2, MAX_COLUMNS
    target = processor_here(isa).target
    set_threads(1)
    program = Program(build([entry(n, k, layout, isa) for layout in LAYOUTS], target))
    trits = np.ones((n, k), np.int8)
    for layout in LAYOUTS:
        for rows in (1, 6):
            low = np.full((rows, k), -128, np.int8)
            assert (run(program, trits, low, layout) == -128 * k).all()
            assert (run(program, trits, ~low, layout) == 127 * k).all()


def listing(code: bytes, tmp_path: Path) -> str:
    path = tmp_path / "program.o"
    path.write_bytes(code)
    command = ["objdump", "-d", "--no-show-raw-insn", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
@pytest.mark.parametrize("name", ["alderlake", "x86-64-v3+avxvnni"])
def test_avx_vnni_needs_no_avx512(name: str, tmp_path: Path) -> None:
    """The VEX form of vpdpbusd, and neither 512 bits nor the registers that only EVEX reaches."""
    known = PROCESSORS["avx_vnni"] if "+" in name else processor_named(name)
    entries = [entry(33, 333, layout, "avx_vnni") for layout in LAYOUTS]
    text = listing(build(entries, known.target), tmp_path)
    assert "{vex} vpdpbusd" in text
    assert re.search(r"zmm|mm(1[6-9]|2[0-9]|3[01])|%k[0-7]", text) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_too_many_columns_are_refused(layout: Layout) -> None:
    k = MAX_COLUMNS + 1
    with pytest.raises(ValueError, match=f"at most {k - 1} columns, not {k}"):
        ternary_matmul(16, k, layout, "portable")


def test_too_large_a_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit in 2 GiB"):
        ternary_matmul(10_000_000, 1000, "2bit", "portable")


def test_rows_of_activations_suit_both_layouts() -> None:
    assert [int8_row_bytes(k) for k in (1, 320, 321, 2048)] == [320, 320, 640, 2240]


FENCED = '''
import ctypes, mmap, sys
import numpy as np
from mmc.ir.packing import BLOCKS, packed_bytes
from mmc.targets.layout import int8_row_bytes
from mmc.targets.tvm.loader import Program, aligned_zeros, as_tensor, set_threads

def fenced(size):
    """Return bytes after which comes a page that may not be read."""
    pages = -(-size // mmap.PAGESIZE)
    block = np.frombuffer(mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE), np.uint8)
    end = block.ctypes.data + pages * mmap.PAGESIZE
    protect = ctypes.CDLL(None).mprotect
    assert protect(ctypes.c_void_p(end), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    return block[pages * mmap.PAGESIZE - size : pages * mmap.PAGESIZE]

set_threads(1)
program = Program(open(sys.argv[1], "rb").read())
for shape in sys.argv[2:]:
    n, k = map(int, shape.split("x"))
    for layout in BLOCKS:
        for rows in (1, 2, 6, 7):
            weights = fenced(packed_bytes(n, k, layout))
            q = fenced(rows * int8_row_bytes(k))
            acc = aligned_zeros(rows * n * 4)
            program[f"{n}x{k}_{layout}"](*map(as_tensor, (weights, q, acc)), rows)
print("done")
'''


def test_nothing_is_read_past_the_end(code: bytes, tmp_path: Path) -> None:
    """Weights and activations end where readable memory ends; prefetches past it do no harm."""
    path = tmp_path / "program.o"
    path.write_bytes(code)
    done = subprocess.run(
        [sys.executable, "-c", FENCED, str(path), *(f"{n}x{k}" for n, k in SHAPES)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "done\n", done.stderr
