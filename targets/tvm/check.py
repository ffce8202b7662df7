"""Compare every kernel of a program with the interpreter, on what the kernel really got.

The program is built once more without using memory twice, and run on a probe; then each kernel's
inputs, as the machine computed them, go through the interpreter.  So every comparison is local.
int32 must be identical.  An int8 activation may differ by one, where its value lies so close to the
middle of two integers that the order of a float sum decides: those are counted and named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from mmc.errors import MmcError
from mmc.ir.compare import relative_error
from mmc.ir.graph import bind_op
from mmc.ir.op import Op, Value
from mmc.targets.tvm.plan import Plan


class Arenas(Protocol):
    """The memory of one call."""

    @property
    def symbols(self) -> Mapping[str, int]:
        """The sizes of the call."""
        ...

    def read(self, value: Value) -> np.ndarray:
        """A value of the graph."""
        ...


FLOAT_BOUND = 2e-5
MAX_FLIPS = 1e-3
"""Largest part of the activations that may round the other way; what is seen is far less."""


@dataclass
class KernelCheck:
    """What was compared, the largest float difference, and the activations that flipped."""

    instruction_set: str
    kernels: int = 0
    sums: int = 0
    activations: int = 0
    float_error: float = 0.0
    float_bound: float = FLOAT_BOUND
    flips: list[str] = field(default_factory=list[str])
    failures: list[str] = field(default_factory=list[str])

    def compare(self, op: Op, made: np.ndarray, wanted: np.ndarray) -> None:
        where = f"{op.origin}: kernel" if op.origin else "kernel"
        if made.dtype == np.int8:
            self._compare_activations(where, made, wanted)
        elif made.dtype.kind in "iub":
            self.sums += made.size
            if wrong := int(np.count_nonzero(made != wanted)):
                self.failures.append(f"{where}: {wrong} of {made.size} integers differ")
        else:
            error = relative_error(wanted, made)
            self.float_error = max(self.float_error, error)
            if not error <= self.float_bound:
                self.failures.append(
                    f"{where}: floats differ by {error:.2e}, bound {self.float_bound:.0e}"
                )

    def _compare_activations(self, where: str, made: np.ndarray, wanted: np.ndarray) -> None:
        self.activations += made.size
        off = made.astype(np.int32) - wanted
        for index in np.argwhere(off):
            at = tuple(int(i) for i in index)
            self.flips.append(
                f"{where}: activation {list(at)} is {made[at]}, the interpreter says {wanted[at]}"
            )
        if np.abs(off).max(initial=0) > 1:
            self.failures.append(f"{where}: an activation is off by {np.abs(off).max()}")
        if np.count_nonzero(off) > max(1, MAX_FLIPS * off.size):
            self.failures.append(
                f"{where}: {np.count_nonzero(off)} of {off.size} activations differ"
            )


def check_kernels(
    code: str, plans: Mapping[str, Plan], call: Callable[[str], Arenas]
) -> dict[str, Any]:
    """Compare every kernel of every plan; raise MmcError where one is wrong.

    `code` says what was run; `call` runs an entry on the probe.
    """
    check = KernelCheck(code)
    for name, plan in plans.items():
        _check_entry(check, plan, call(name))
    if check.failures:
        raise MmcError(
            f"{len(check.failures)} kernels are wrong:\n  " + "\n  ".join(check.failures[:20]),
            "--check",
        )
    return asdict(check)


def _check_entry(check: KernelCheck, plan: Plan, arenas: Arenas) -> None:
    for op in plan.kernels:
        check.kernels += 1
        bound = bind_op(op, arenas.symbols)
        wanted = bound.reference(*(arenas.read(v) for v in op.operands))
        for value, array in zip(op.results, wanted, strict=True):
            check.compare(op, arenas.read(value), array)
