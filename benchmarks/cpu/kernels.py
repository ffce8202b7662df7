# pyright: basic
# TVM and torch do not type what is used here.
"""The ternary matmul kernels alone: reading cold weights, and multiplying many rows.

gemv: one row of activations with weights that no cache holds, beside the rate at which the machine
reads memory.  rows: a few rows with weights in the second-level cache, where only instructions
count; the rates in `mmc.passes.layout_cost` are from there.  gemm: 512 rows, beside the rate of dot
products in registers, and beside the int8 products of onnxruntime and torch, which read four times
the bytes.  All in turn, by CPU time.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from benchmarks.cpu.measure import table
from benchmarks.cpu.settings import Settings
from mmc.ir.packing import BLOCKS, Layout, pack, packed_bytes
from mmc.targets.cpu.features import choose_isa
from mmc.targets.cpu.huge_pages import huge_memory
from mmc.targets.cpu.processor import PROCESSORS
from mmc.targets.cpu.read_limit import ReadLimit
from mmc.targets.cpu.ternary_512 import dot
from mmc.targets.cpu.ternary_matmul import ternary_matmul
from mmc.targets.cpu.ternary_tile import zero_registers
from mmc.targets.layout import int8_row_bytes
from mmc.targets.tvm.host import Entry, KernelCall, Tensor, build, make_kernel, size_variable
from mmc.targets.tvm.loader import Program, aligned_zeros, as_tensor, set_threads

Shape = tuple[int, int]

SHAPES: tuple[Shape, ...] = ((5632, 2048), (2048, 5632), (2048, 2048), (6912, 2560), (2560, 6912))
COLD_BYTES = 640 << 20
GEMM_ROWS = 512
GEMM_ROUNDS = 5
"""Rounds of `gemm` in one of the others: its best one is reported beside the median."""

LAYERS = {"whole layer": 1, "each of 24 layers in a row": 24}
ROWS = (1, 2, 4, 8, 16)
CALLS = 100


class Gemv:
    """A row of q times as many copies of a matrix as fill the buffer, in one call."""

    def __init__(self, shape: Shape, layout: Layout, buffer: np.ndarray) -> None:
        n, k = shape
        size = packed_bytes(n, k, layout)
        self.copies = COLD_BYTES // size
        self.bytes = self.copies * size
        self.weights = self.copies * n * k
        random = np.random.default_rng(n + k)
        self._trits = random.integers(-1, 2, (n, k), np.int8)
        self._x = random.integers(-128, 128, k).astype(np.int8)
        self._packed, self._buffer = pack(self._trits, layout), buffer
        self._q = aligned_zeros(int8_row_bytes(k))
        self._q[:k] = self._x.view(np.uint8)
        self._acc = aligned_zeros(4 * n)
        kernel = ternary_matmul(n, k, layout, choose_isa())
        tensors = weights, q, acc = Tensor("weights", 64), Tensor("q", 64), Tensor("acc", 64)
        calls = (
            KernelCall(kernel, (weights.at(i * size), q.at(), acc.at(), 1))
            for i in range(self.copies)
        )
        entry = Entry("gemv", tensors, (), tuple(calls))
        self._run = Program(build([entry], PROCESSORS[choose_isa()].target))["gemv"]

    def __call__(self) -> None:
        self._run(as_tensor(self._buffer), as_tensor(self._q), as_tensor(self._acc))

    def is_exact(self) -> bool:
        """Whether the last copy's sums are those of numpy."""
        size = self._packed.size
        self._buffer[(self.copies - 1) * size : self.copies * size] = self._packed
        self()
        expected = self._trits.astype(np.int32) @ self._x.astype(np.int32)
        return bool((self._acc.view(np.int32) == expected).all())


def gemv(settings: Settings) -> list[str]:
    """Rows by shape, layout and threads: the part of the read limit that was reached."""
    buffer = huge_memory(COLD_BYTES)
    buffer[:] = np.resize(np.random.default_rng(0).integers(0, 243, 1 << 20, np.uint8), COLD_BYTES)
    tests = [(s, layout, Gemv(s, layout, buffer)) for s in SHAPES for layout in BLOCKS]
    exact = {(s, layout): test.is_exact() for s, layout, test in tests}
    read_limit = ReadLimit()
    rows: list[list[object]] = []
    for threads in settings.threads:
        _use(settings, threads)
        rates: dict[tuple[Shape, str], list[tuple[float, float]]] = {}
        for _ in range(settings.repeats):
            for shape, layout, test in tests:
                seconds = _cpu_seconds(test) / threads
                found = (test.bytes / seconds, read_limit(threads))
                rates.setdefault((shape, layout), []).append(found)
        for shape, layout, test in tests:
            found = rates[shape, layout]
            rate, limit = (statistics.median(one[i] for one in found) for i in (0, 1))
            rows.append([
                f"{shape[0]} x {shape[1]}", layout, f"{8 * test.bytes / test.weights:.3f}",
                threads, f"{test.weights / test.bytes * rate / 1e9:.0f}", f"{rate / 1e9:.1f}",
                f"{limit / 1e9:.1f}", f"{rate / limit:.2f}",
                "exact" if exact[shape, layout] else "WRONG",
            ])  # fmt: skip
    columns = ("matrix", "weights", "bits a weight", "threads", "G weights/s", "GB/s",
               "GB/s that the machine reads", "part of it", "int32 sums")  # fmt: skip
    return table(columns, rows)


def _use(settings: Settings, threads: int) -> None:
    """Pin this process to the first processors."""
    os.sched_setaffinity(0, settings.processors[:threads])
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), settings.processors[:threads])
    set_threads(threads)


def _cpu_seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def rows(settings: Settings) -> list[str]:
    """A few rows with a matrix of 1024 x 2048 in the cache: what memory would have to deliver."""
    _use(settings, 1)
    n, k = 1024, 2048
    tests = [(layout, r, _product(n, k, layout, r, CALLS)) for layout in BLOCKS for r in ROWS]
    peak = _dot_products()
    rates: dict[tuple[Layout, int], list[float]] = {}
    peaks: list[float] = []
    for _ in range(settings.repeats):
        peaks.append(peak())
        for layout, count, run in tests:
            rates.setdefault((layout, count), []).append(CALLS / _cpu_seconds(run))
    lines: list[list[object]] = []
    for (layout, count), found in rates.items():
        calls, top = statistics.median(found), statistics.median(peaks)
        macs, read = calls * count * n * k, calls * packed_bytes(n, k, layout)
        lines.append([layout, count, f"{macs / count / 1e9:.0f}", f"{read / 1e9:.1f}",
                      f"{macs / 1e9:.0f}", f"{macs / top:.2f}"])  # fmt: skip
    columns = "weights", "rows", "G weights/s", "GB/s", "GMAC/s", "part of the dot products"
    return table(columns, lines)


def gemm(settings: Settings) -> list[str]:
    """BitLinear layers of 2048 x 2048 with 512 rows, and int8 products of the same size."""
    _use(settings, 1)
    n = k = 2048
    products = {
        f"mmc, product alone, {layout}": _product(n, k, layout, GEMM_ROWS, 1) for layout in BLOCKS
    }
    products |= _int8_peers(n, k)
    layers = {
        f"mmc, {name}, {layout}": (count, _layers(count, k, layout))
        for name, count in LAYERS.items()
        for layout in BLOCKS
    }
    tests = layers | {name: (1, run) for name, run in products.items()}
    peak, loads = _dot_products(), _dot_products_with_loads()
    in_cache = "dot products with the kernel's loads, all in the first-level cache"
    rates: dict[str, list[float]] = {name: [] for name in (in_cache, *tests)}
    peaks: list[float] = []
    for _ in range(GEMM_ROUNDS * settings.repeats + 1):
        peaks.append(peak())
        rates[in_cache].append(loads())
        for name, (count, run) in tests.items():
            rates[name].append(count * GEMM_ROWS * n * k / _cpu_seconds(run))
    rows: list[list[object]] = []
    for name, found in {"dot products in registers": peaks, **rates}.items():
        cells = ((rate(found[1:]), rate(peaks[1:])) for rate in (max, statistics.median))
        rows.append([name, *(cell for one, top in cells
                             for cell in (f"{one / 1e9:.0f}", f"{one / top:.2f}"))])  # fmt: skip
    work = "int8, 512 rows, 2048 x 2048, 1 thread"
    return table((work, "best GMAC/s", "part", "median GMAC/s", "part"), rows)


def _layers(count: int, width: int, layout: Layout) -> Callable[[], object]:
    """Times RMSNorm, quantisation, product and scales, as the compiler makes them of a module."""
    import torch

    import mmc
    from mmc.frontends.models.bit_linear import BitLinear, Quantiser

    torch.manual_seed(0)
    module = torch.nn.Sequential(*(BitLinear(width, width, Quantiser()) for _ in range(count)))
    for weight in module.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight)
    example = (torch.randn(GEMM_ROWS, width),)
    run = mmc.load(mmc.compile(module, example, weights=layout).path)
    x = example[0].numpy()
    return lambda: run(x)


def _product(n: int, k: int, layout: Layout, rows: int, calls: int) -> Callable[[], object]:
    """The ternary matmul kernel alone, some times over."""
    random = np.random.default_rng(0)
    packed = pack(random.integers(-1, 2, (n, k), np.int8), layout)
    arrays = [aligned_zeros(packed.size), aligned_zeros(rows * int8_row_bytes(k))]
    arrays[0][:] = packed
    arrays[1][:] = random.integers(0, 256, arrays[1].size, np.uint8)
    arrays.append(aligned_zeros(rows * n * 4))
    tensors = tuple(Tensor(name, 64) for name in ("weights", "q", "acc"))
    call = KernelCall(
        ternary_matmul(n, k, layout, choose_isa()), (*(t.at() for t in tensors), rows)
    )
    entry = Entry("product", tensors, (), (call,) * calls)
    program = Program(build([entry], PROCESSORS[choose_isa()].target))
    return lambda: program["product"](*map(as_tensor, arrays))


def _int8_peers(n: int, k: int) -> dict[str, Callable[[], object]]:
    """Dense int8 products with int32 sums."""
    import onnx
    import onnxruntime
    import torch

    random = np.random.default_rng(0)
    x = random.integers(0, 256, (GEMM_ROWS, k), np.uint8)
    w = random.integers(-1, 2, (k, n), np.int8)
    make, kinds = onnx.helper, onnx.TensorProto
    graph = make.make_graph(
        [make.make_node("MatMulInteger", ["x", "w"], ["y"])], "g",
        [make.make_tensor_value_info("x", kinds.UINT8, x.shape)],
        [make.make_tensor_value_info("y", kinds.INT32, (GEMM_ROWS, n))],
        [onnx.numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    torch.set_num_threads(1)
    left, right = torch.from_numpy(x.view(np.int8)), torch.from_numpy(w)
    return {
        f"onnxruntime {onnxruntime.__version__} MatMulInteger": lambda: session.run(None, {"x": x}),
        f"torch {torch.__version__} _int_mm": lambda: torch._int_mm(left, right),
    }


def _dot_products() -> Callable[[], float]:
    """Multiply-accumulates a second of vpdpbusd on 64 bytes, with nothing else to do."""

    def body(q: Any, acc: Any, count: Any) -> None:
        registers = zero_registers(16)
        with T.serial(0, count):
            word = T.Bind(q.vload([0], "int32x16"))
            for register in registers:
                dot(register, T.reinterpret("uint8x64", word), word)
        _store_sum(acc, registers)

    return _rate(body, 64, 1_000_000, 16)


def _dot_products_with_loads() -> Callable[[], float]:
    """As `_dot_products`, of 4 vectors and 6 words at a time that the first-level cache gives.

    These are the instructions of `ternary_avx512`'s loop, and what it can reach on a processor core
    of which another program uses a part.
    """
    words = 32

    def body(q: Any, acc: Any, count: Any) -> None:
        sums = [zero_registers(4) for _ in range(6)]
        with T.serial(0, count), T.serial(0, words) as word:
            panel = [T.Bind(q.vload([(4 * word + tile) * 16], "int32x16")) for tile in range(4)]
            for row, registers in enumerate(sums):
                spread = T.Bind(T.broadcast(q[row * words + word], 16))
                for tile, register in enumerate(registers):
                    dot(register, T.reinterpret("uint8x64", panel[tile]), spread)
        _store_sum(acc, [register for registers in sums for register in registers])

    return _rate(body, 4 * words * 64, 20_000, 24 * words)


def _store_sum(acc: Any, registers: list[Any]) -> None:
    T.buffer_store(acc, sum((r[0] for r in registers[1:]), registers[0][0]), [T.ramp(0, 1, 16)])


def _rate(body: Callable[..., None], size: int, rounds: int, products: int) -> Callable[[], float]:
    """Multiply-accumulates a second of a loop with so many dot products, on `size` bytes."""
    count = size_variable("count")
    tensors = q, acc = Tensor("q", 64), Tensor("acc", 64)
    kernel = make_kernel("peak", {"q": "int32*", "acc": "int32*", "count": "int64"}, body)
    entry = Entry("dot", tensors, (count,), (KernelCall(kernel, (q.at(), acc.at(), count)),))
    program = Program(build([entry], PROCESSORS["avx512_vnni"].target))
    arrays = as_tensor(aligned_zeros(size)), as_tensor(aligned_zeros(64))
    return lambda: rounds * products * 64 / _cpu_seconds(lambda: program["dot"](*arrays, rounds))
