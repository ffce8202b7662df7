# pyright: basic
"""Host programs: entry functions that call TIR kernels through raw pointers, in one object file.

A model becomes one TVM module: kernels, which are private functions on pointers and integers, and
entries, which are public and call the kernels one after another.  A call from an entry to a kernel
is a plain machine call, with no tensor descriptors; a kernel is compiled once however often it is
called, and it may hold parallel loops.  Three things make that work in TVM 0.27:

* a kernel returns int32: TVM checks each parallel loop with `return code`, which LLVM refuses in a
  function that returns nothing;
* the call is `tvm.ir.Call(GlobalVar, arguments, ret_ty=int32)` and a pointer is `T.address_of` of
  a byte of an entry's tensor: the offset may depend on the entry's sizes (batch, tokens);
* kernels and entries are built with `IRBuilder` directly, so that Python loops and functions write
  TIR without the TVMScript parser.

The object file is the same, byte for byte, each time the same program is built.  It is linked in
memory by `tvm_ffi_orcjit`: no compiler or linker is needed where it runs.

Every pointer that a kernel gets must be a multiple of `ALIGNMENT` bytes, because LLVM uses aligned
vector loads: `build` refuses an offset that it cannot prove aligned, the loader refuses an array
that is not.  No two tensors of one call may overlap, except where no kernel writes to them.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import tvm
from tvm import ir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.sym import Analyzer

from mmc.targets.layout import ALIGNMENT
from mmc.targets.tvm.team import team, team_functions

_UNBOUNDED = 1 << 40
"""Declared length of a buffer behind a raw pointer; nothing is checked against it."""

_CPU = T.int32(1)

_BARRIER = """
define linkonce_odr i32 @mmc_barrier() alwaysinline nounwind {
  call void asm sideeffect "", "~{memory}"()
  ret i32 0
}
"""
"""No instruction, only an order: LLVM inlines kernels, and TVM tells it that buffers of different
names never overlap, which is true within a kernel but not between two that use the same memory."""

Expression: TypeAlias = "int | ir.Expr"
"""An integer, or a TIR expression over the size variables of an entry."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A private function on raw pointers and numbers.

    `parameters` maps each name to a scalar type ("int64", "float32") or to a pointer type
    ("int8*"); `function` is the TIR.  Kernels are told apart by `name`.
    """

    name: str
    parameters: Mapping[str, str]
    function: tirx.PrimFunc


@dataclass(frozen=True, eq=False)
class Tensor:
    """A flat uint8 tensor that an entry takes; `size`, in bytes, is the least it may hold."""

    name: str
    size: Expression

    def at(self, offset: Expression = 0) -> Pointer:
        """Point at byte `offset`, which must be a multiple of `ALIGNMENT`."""
        return Pointer(self, offset)


@dataclass(frozen=True, eq=False)
class Pointer:
    """The address of byte `offset` of a tensor."""

    tensor: Tensor
    offset: Expression = 0


@dataclass(frozen=True, eq=False)
class KernelCall:
    """One call of a kernel, with a pointer or a number for each of its parameters."""

    kernel: Kernel
    arguments: tuple[Pointer | Expression, ...]


@dataclass(frozen=True, eq=False)
class Entry:
    """A public function: takes `tensors`, then `sizes`, and makes `calls` in order."""

    name: str
    tensors: tuple[Tensor, ...]
    sizes: tuple[tirx.Var, ...]
    calls: tuple[KernelCall, ...]


def size_variable(name: str) -> tirx.Var:
    """Make an int64 variable for a size known at run time; at least 0."""
    return tirx.Var(name, "int64")


def make_kernel(
    name: str, parameters: Mapping[str, str], body: Callable[..., None], *, noalias: bool = True
) -> Kernel:
    """Build a kernel: `body` gets a buffer for each pointer and a variable for each number.

    The buffers are flat and have no bounds.  With `noalias`, what the pointers reach must not
    overlap where it is written; a kernel that may work in place must say `noalias=False`.
    """
    with IRBuilder() as builder, T.prim_func(is_private=True):
        T.func_attr({"tirx.noalias": noalias})
        T.func_ret(ir.PrimType("int32"))
        variables = [T.arg(key, _variable(key, kind)) for key, kind in parameters.items()]
        # Large local buffers come from the workspace of a device, which must be named.
        with T.attr("default", "device_id", T.int32(0)), T.attr("default", "device_type", _CPU):
            body(*map(_as_buffer, variables, parameters.values()))
        T.Return(T.int32(0))
    function: Any = builder.get()
    return Kernel(name, dict(parameters), function)


def _variable(name: str, kind: str) -> tirx.Var:
    return T.ptr(kind[:-1]) if kind.endswith("*") else tirx.Var(name, kind)


def _as_buffer(variable: tirx.Var, kind: str) -> Any:
    if not kind.endswith("*"):
        return variable
    return T.decl_buffer((_UNBOUNDED,), kind[:-1], data=variable)


def build(entries: Sequence[Entry], target: tvm.target.Target) -> bytes:
    """Compile the entries and the kernels that they call into one object file.

    Raises ValueError where a name is taken twice, where a call does not fit its kernel, and where
    an offset is not provably a multiple of `ALIGNMENT`.
    """
    symbols: dict[str, tuple[Kernel, ir.GlobalVar]] = {}
    for call in (call for entry in entries for call in entry.calls):
        known, _ = symbols.setdefault(
            call.kernel.name, (call.kernel, ir.GlobalVar(call.kernel.name))
        )
        if known is not call.kernel:
            raise ValueError(f"two different kernels are named {known.name!r}")
    functions = {symbol: kernel.function for kernel, symbol in symbols.values()}
    functions |= team_functions()
    for entry in entries:
        if any(entry.name == symbol.name_hint for symbol in functions):
            raise ValueError(f"two functions are named {entry.name!r}")
        functions[ir.GlobalVar(entry.name)] = _entry_function(entry, symbols)
    compiled = tvm.compile(tvm.IRModule(functions), target=target, tir_pipeline="tirx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.o")
        compiled.mod.write_to_file(str(path), "o")
        return path.read_bytes()


def _entry_function(
    entry: Entry, symbols: Mapping[str, tuple[Kernel, ir.GlobalVar]]
) -> tirx.PrimFunc:
    """Write the TIR of an entry."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(entry.name)
        T.func_attr({"global_symbol": entry.name})
        lengths = {tensor: tirx.Var(f"{tensor.name}_size", "int64") for tensor in entry.tensors}
        buffers = {
            tensor: T.arg(tensor.name, T.buffer((length,), "uint8"))
            for tensor, length in lengths.items()
        }
        for size in entry.sizes:
            T.arg(size.name, size)
        with contextlib.ExitStack() as checks:
            for tensor, length in lengths.items():
                enough = length >= _constant(tensor.size)
                checks.enter_context(T.Assert(enough, f"{tensor.name} is too small"))
            checks.enter_context(T.attr(T.int32(0), "pragma_import_llvm", _BARRIER))
            checks.enter_context(team())
            for call in entry.calls:
                arguments = _arguments(call, buffers)
                symbol = symbols[call.kernel.name][1]
                T.evaluate(T.call_extern("int32", "mmc_barrier"))
                result = ir.Call(symbol, arguments, ret_ty=ir.PrimType("int32"))
                checks.enter_context(T.Assert(result == 0, f"{call.kernel.name} failed"))
    function: Any = builder.get()
    return function


def _arguments(call: KernelCall, buffers: Mapping[Tensor, Any]) -> list[ir.Expr]:
    """Check a call against its kernel and turn each argument into TIR."""
    name, kinds = call.kernel.name, call.kernel.parameters
    if len(kinds) != len(call.arguments):
        raise ValueError(f"{name} takes {len(kinds)} arguments, not {len(call.arguments)}")
    arguments: list[ir.Expr] = []
    for (parameter, kind), argument in zip(kinds.items(), call.arguments, strict=True):
        where = f"argument {parameter!r} of {name}"
        if kind.endswith("*") != isinstance(argument, Pointer):
            raise ValueError(f"{where} must be {kind}, not {argument}")
        if not isinstance(argument, Pointer):
            arguments.append(T.cast(_constant(argument), kind))
        elif argument.tensor not in buffers:
            raise ValueError(f"{where}: the entry has no tensor {argument.tensor.name!r}")
        else:
            offset = _constant(argument.offset)
            _require_aligned(offset, where)
            arguments.append(T.address_of(buffers[argument.tensor][offset]))
    return arguments


def _constant(value: Expression) -> ir.Expr:
    return T.int64(value) if isinstance(value, int) else value


def _require_aligned(offset: ir.Expr, where: str) -> None:
    known: Any = Analyzer().modular_set(offset)
    if known.coeff % ALIGNMENT or known.base % ALIGNMENT:
        raise ValueError(f"{where}: offset {offset} is not provably a multiple of {ALIGNMENT}")
