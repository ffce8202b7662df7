# pyright: basic
"""Host programs: calls with pointers, refused mistakes, repeatable object files, threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm.script.ir_builder import tirx as T

from mmc.targets.tvm.host import (
    Entry,
    Kernel,
    KernelCall,
    Tensor,
    build,
    make_kernel,
    size_variable,
)
from mmc.targets.tvm.loader import Program, aligned_zeros, as_tensor, set_threads

B, TOKENS = size_variable("B"), size_variable("T")
COUNT: Any = B * TOKENS
HALF = (COUNT * 4 + 63) // 64 * 64
WEIGHTS = Tensor("weights", 1024)
WORKSPACE = Tensor("workspace", 2 * HALF)


def add_kernel(name: str, constant: int) -> Kernel:
    """y[i] = x[i] + constant, in a parallel loop; may work in place."""

    def body(x: Any, y: Any, count: Any) -> None:
        with T.parallel(0, count) as i:
            T.buffer_store(y, x[i] + T.int32(constant), [i])

    parameters = {"x": "int32*", "y": "int32*", "count": "int64"}
    return make_kernel(name, parameters, body, noalias=False)


ADD_1, ADD_10 = add_kernel("add_1", 1), add_kernel("add_10", 10)


def entry(name: str, repeats: int) -> Entry:
    """workspace[1] = weights + 10 + repeats, by way of workspace[0]."""
    first = KernelCall(ADD_10, (WEIGHTS.at(), WORKSPACE.at(), COUNT))
    move = KernelCall(ADD_1, (WORKSPACE.at(), WORKSPACE.at(HALF), COUNT))
    again = KernelCall(ADD_1, (WORKSPACE.at(HALF), WORKSPACE.at(HALF), COUNT))
    return Entry(name, (WEIGHTS, WORKSPACE), (B, TOKENS), (first, move, *[again] * (repeats - 1)))


def target() -> tvm.target.Target:
    return tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v2"})


def make_program() -> bytes:
    return build([entry("once", 1), entry("often", 100)], target())


@pytest.fixture(scope="module")
def code() -> bytes:
    set_threads(1)
    return make_program()


@pytest.fixture
def weights() -> np.ndarray:
    array = aligned_zeros(1024)
    array.view(np.int32)[:] = np.arange(256)
    return array


@pytest.mark.parametrize(("name", "added"), [("once", 11), ("often", 110)])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (2, 5), (16, 16)])
def test_entries_pass_pointers_at_run_time_offsets(
    code: bytes, weights: np.ndarray, name: str, added: int, batch: int, tokens: int
) -> None:
    count = batch * tokens
    half = -(-count * 4 // 64) * 64
    workspace = aligned_zeros(2 * half)
    Program(code)[name](as_tensor(weights), as_tensor(workspace), batch, tokens)
    result = workspace[half:].view(np.int32)
    np.testing.assert_array_equal(result[:count], np.arange(count) + added)
    assert not result[count:].any()


def test_a_kernel_is_compiled_once_however_often_it_is_called() -> None:
    few, many = (len(build([entry("e", repeats)], target())) for repeats in (10, 110))
    assert few < many < few + 100 * 256  # a call takes under 256 bytes, its error check included


def copy_kernel(source: str, to: str) -> Kernel:
    def body(x: Any, y: Any) -> None:
        T.buffer_store(y, x[0], [0])

    return make_kernel(f"{source}_to_{to}", {source: "int32*", to: "int32*"}, body)


def test_a_kernel_reads_what_the_one_before_it_wrote() -> None:
    """LLVM inlines the three, and without a barrier takes the first read of `a` for the second.

    `b`, written in between, has another name, and where it lies is known at run time alone.
    """
    a_to_c, c_to_b = copy_kernel("a", "c"), copy_kernel("c", "b")
    memory = Tensor("memory", 320)
    first, second, third = (memory.at(64 * n) for n in range(3))
    calls = (
        KernelCall(a_to_c, (memory.at(64 * B), first)),
        KernelCall(c_to_b, (third, memory.at(64 * TOKENS))),
        KernelCall(a_to_c, (memory.at(64 * B), second)),
    )
    program = Program(build([Entry("e", (memory,), (B, TOKENS), calls)], target()))
    array = aligned_zeros(320)
    values = array.view(np.int32)
    values[2 * 16], values[4 * 16] = 7, 5
    program["e"](as_tensor(array), 4, 4)
    assert (values[0], values[4 * 16], values[16]) == (5, 7, 7)


def test_a_mapped_file_is_read_in_place(code: bytes, weights: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(weights.tobytes())
    mapped = np.memmap(path, np.uint8, mode="c")
    tensor = as_tensor(mapped)
    assert tensor.data_ptr() == mapped.ctypes.data
    workspace = aligned_zeros(128)
    Program(code)["once"](tensor, as_tensor(workspace), 1, 16)
    np.testing.assert_array_equal(workspace[64:].view(np.int32), np.arange(16) + 11)


def test_the_object_file_is_the_same_in_another_process(code: bytes) -> None:
    script = (
        "import hashlib, runpy; program = runpy.run_path(%r); "
        "print(hashlib.sha256(program['make_program']()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script % __file__],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.strip() == hashlib.sha256(code).hexdigest()


def test_a_tensor_that_is_too_small_is_refused(code: bytes, weights: np.ndarray) -> None:
    program = Program(code)
    with pytest.raises(RuntimeError, match="workspace is too small"):
        program["once"](as_tensor(weights), as_tensor(aligned_zeros(127)), 1, 16)
    with pytest.raises(RuntimeError, match="weights is too small"):
        program["once"](as_tensor(weights[:-64]), as_tensor(aligned_zeros(128)), 1, 16)


def test_an_unknown_entry_is_refused(code: bytes) -> None:
    with pytest.raises(KeyError, match="no entry 'missing'"):
        Program(code)["missing"]


def test_arrays_that_cannot_be_shared_are_refused() -> None:
    array = aligned_zeros(256)
    with pytest.raises(ValueError, match="multiple of 64"):
        as_tensor(array[4:])
    with pytest.raises(ValueError, match="contiguous"):
        as_tensor(array[::2])
    array.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        as_tensor(array)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((WEIGHTS.at(), WORKSPACE.at()), "takes 3 arguments, not 2"),
        ((WEIGHTS.at(), 5, COUNT), "argument 'y' of add_1 must be int32\\*"),
        ((WEIGHTS.at(), WORKSPACE.at(), WEIGHTS.at()), "argument 'count' of add_1 must be int64"),
        ((WEIGHTS.at(4), WORKSPACE.at(), COUNT), "not provably a multiple of 64"),
        ((WEIGHTS.at(), WORKSPACE.at(COUNT * 4), COUNT), "not provably a multiple of 64"),
        ((Tensor("other", 1).at(), WORKSPACE.at(), COUNT), "no tensor 'other'"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    wrong = Entry("wrong", (WEIGHTS, WORKSPACE), (B, TOKENS), (KernelCall(ADD_1, arguments),))
    with pytest.raises(ValueError, match=message):
        build([wrong], target())


def test_two_kernels_of_one_name_are_refused() -> None:
    calls = [
        KernelCall(k, (WEIGHTS.at(), WORKSPACE.at(), 1)) for k in (ADD_1, add_kernel("add_1", 2))
    ]
    with pytest.raises(ValueError, match="two different kernels are named 'add_1'"):
        build([Entry("wrong", (WEIGHTS, WORKSPACE), (), tuple(calls))], target())


@pytest.mark.parametrize("names", [("same", "same"), ("add_1", "other")])
def test_two_functions_of_one_name_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=f"two functions are named '{names[0]}'"):
        build([entry(name, 1) for name in names], target())


def test_the_number_of_threads_can_change_at_any_time(code: bytes) -> None:
    allowed = os.sched_getaffinity(0)
    weights, workspace = as_tensor(aligned_zeros(4096)), as_tensor(aligned_zeros(8192))
    threads_used = tvm_ffi.get_global_func("runtime.NumThreads")
    for count in (1, os.cpu_count() or 1, 1):
        set_threads(count)
        Program(code)["once"](weights, workspace, 1, 1024)
        assert threads_used() == count
    for thread in os.listdir("/proc/self/task"):
        assert os.sched_getaffinity(int(thread)) == allowed
    with pytest.raises(ValueError, match="at least 1"):
        set_threads(0)
    with pytest.raises(ValueError, match="TVM's pool has"):
        set_threads(100_000)
