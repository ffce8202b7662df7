# pyright: basic
# TVM does not type its expressions.
"""Device kernels: TIR on raw pointers, turned into one CUDA source by TVM.

TVM splits a function into a host part, which launches, and a device part.  Only the device part is
used; `mmc.targets.cuda.executable` launches it.  Its parameters come in an order of TVM's choice,
which is read off the host part's call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx.compilation_pipeline import finalize_device_passes

from mmc.targets.tvm.elementary import on_device

HELPERS = "\n".join(
    Path(__file__).with_name(f"{name}.cuh").read_text()
    for name in (
        "device",
        "barrier",
        "digits",
        "stage",
        "product_few",
        "product_some",
        "product_many",
        "tile",
        "supply",
        "persistent",
        "tiles",
    )
)

_RESIDENT = "tirx.launch_bounds_min_blocks_per_sm"

_UNBOUNDED = 1 << 40
"""Declared length of a buffer behind a raw pointer; nothing is checked against it."""


@dataclass(frozen=True, eq=False)
class DeviceKernel:
    """A kernel: its parameters ("int64", or "int8*" for a pointer) by name, and its TIR.

    shared: bytes of shared memory besides what the kernel declares.  resident: the blocks that a
    processor shall hold at a time, which says how many registers they may have; None to let the
    compiler choose.  waits: it waits itself for the launches before it (`product_few.cuh`).
    """

    name: str
    parameters: Mapping[str, str]
    threads: int
    function: tirx.PrimFunc
    shared: int = 0
    resident: int | None = None
    waits: bool = False


def make_kernel(
    name: str,
    parameters: Mapping[str, str],
    threads: int,
    body: Callable[..., None],
    *,
    shared: int = 0,
    resident: int | None = None,
    waits: bool = False,
) -> DeviceKernel:
    """Build a kernel: `body(block, thread, *arguments)`, blocks and threads counted in int32.

    Buffers are flat and have no bounds.  The body must leave alone what blocks past its work get.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        variables = [
            T.arg(key, T.ptr(kind[:-1]) if kind.endswith("*") else tirx.Var(key, kind))
            for key, kind in parameters.items()
        ]
        blocks = T.arg("blocks", tirx.Var("blocks", "int32"))
        buffers = [
            T.decl_buffer((_UNBOUNDED,), kind[:-1], data=variable)
            if kind.endswith("*")
            else variable
            for variable, kind in zip(variables, parameters.values(), strict=True)
        ]
        T.device_entry()
        block = T.cta_id([blocks])
        thread = T.thread_id([threads])
        with on_device(_FUNCTIONS):
            body(block, thread, *buffers)
    function: Any = builder.get()
    return DeviceKernel(name, dict(parameters), threads, function, shared, resident, waits)


def call(name: str, result: Any, *arguments: Any) -> Any:
    """A call of a helper in one of the headers."""
    return T.cuda.func_call(name, *arguments, source_code="", return_type=result)


def do(name: str, *arguments: Any) -> None:
    """A call of a helper that returns nothing."""
    T.evaluate(T.cuda.func_call(name, *arguments, source_code=""))


_FUNCTIONS = {
    "magnitude": lambda x: call("fabsf", "float32", x),
    "sigmoid": lambda x: call("mmc_sigmoid", "float32", x),
    "silu": lambda x: call("mmc_silu", "float32", x),
    "over": lambda *given: call("mmc_over", "float32", *given),
    "quotient": lambda x, y: call("mmc_quotient", "float32", x, y),
    "reciprocal": lambda x: call("mmc_reciprocal", "float32", x),
    "inverse_root": lambda x: call("mmc_inverse_root", "float32", x),
}
"""What `device.cuh` has that takes fewer instructions than the portable form."""


@dataclass(frozen=True)
class Source:
    """One CUDA source, and for each kernel the order of its parameters."""

    text: str
    parameters: Mapping[str, tuple[str, ...]]


def generate(kernels: Sequence[DeviceKernel], architecture: str) -> Source:
    """The CUDA source of the kernels; the same for the same kernels."""
    target = tvm.target.Target({"kind": "cuda", "arch": architecture}, host={"kind": "llvm"})
    functions = {kernel.name: kernel.function for kernel in kernels}
    transform = tirx.transform
    passes = [
        transform.BindTarget(target),
        transform.LowerTIRx(),
        s_tir.transform.UnifyThreadBinding(),
        transform.StmtSimplify(),
        transform.LowerTIRxOpaque(),
        transform.FlattenBuffer(),
        transform.NarrowDataType(32),
        transform.VectorizeLoop(True),
        transform.UnrollLoop(),
        transform.StmtSimplify(),
        transform.CommonSubexprElim(),
        transform.VerifyMemory(),
        transform.AnnotateEntryFunc(),
        transform.SplitHostDevice(),
    ]
    split = ir.transform.Sequential(passes)(tvm.IRModule(functions))
    by_name = {symbol.name_hint: function for symbol, function in split.functions.items()}
    device = {n: f for n, f in by_name.items() if f.attrs.get("calling_conv") == 2}
    orders = {kernel.name: _order(by_name[kernel.name], kernel) for kernel in kernels}
    for kernel in kernels:
        if kernel.resident is not None:
            name = f"{kernel.name}_kernel"
            device[name] = device[name].with_attr(_RESIDENT, kernel.resident)
    ordered = {name: device[name] for name in sorted(device)}
    module = finalize_device_passes()(tvm.IRModule(ordered))
    return Source(HELPERS + _printed(module, target), orders)


def _printed(module: Any, target: Any) -> str:
    """The source of device functions; a TVM that finds a GPU would compile it, without HELPERS."""
    name, given = "tvm_callback_cuda_compile", list[str]()
    usual = tvm.get_global_func(name)

    def keep(code: str) -> bytes:
        given.append(code)
        return code.encode()

    tvm_ffi.register_global_func(name, keep, override=True)
    try:
        built: Any = tvm.get_global_func("target.build.cuda")(module, target)
    finally:
        tvm_ffi.register_global_func(name, usual, override=True)
    return given[0] if given else built.inspect_source()


def _order(host: Any, kernel: DeviceKernel) -> tuple[str, ...]:
    """The names of the parameters in the order in which the host part passes them.

    The host part declares the buffers over its parameters and makes one call:
    (name of the device part, arguments, number of blocks, number of threads).
    """
    names: dict[Any, str] = dict(zip(host.params, (*kernel.parameters, "blocks"), strict=True))
    body: Any = host.body
    statements: list[Any] = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    *declared, launch = statements
    names |= {stmt.buffer: names[stmt.data] for stmt in declared}
    arguments = launch.value.args[1:-2]
    return tuple(names[a.args[0] if isinstance(a, ir.Call) else a] for a in arguments)
