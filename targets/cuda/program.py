"""From graphs of kernels to one CUDA source and the launches of each graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mmc.ir.graph import Graph
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.types import Dim, numel, static_shape, symbol
from mmc.targets.cuda import rows, ternary
from mmc.targets.cuda.code import DeviceKernel, generate
from mmc.targets.cuda.launches import Choices, Launch, Size
from mmc.targets.tvm.plan import Plan
from mmc.targets.tvm.program import lone_matmul
from mmc.targets.tvm.rowwise import ROWS, flatten_rows


@dataclass
class Program:
    """Collects the kernels of several graphs; equal bodies share theirs."""

    kernels: dict[str, DeviceKernel] = field(default_factory=dict[str, DeviceKernel])
    _bodies: dict[Graph, list[rows.Launch]] = field(default_factory=dict[Graph, list[rows.Launch]])

    def launches(self, plan: Plan) -> list[list[Choices]]:
        """For each kernel of the graph what is launched; arguments are named, not yet ordered."""
        return [self._launches(op) for op in plan.kernels]

    def _launches(self, op: Kernel) -> list[Choices]:
        matmul = lone_matmul(op.body)
        if matmul is not None:
            n, k = static_shape(matmul.w.type.shape)
            return [self._matmul(ternary.Matrix(n, k), numel(op.operands[0].type.shape[:-1]))]
        flat = flatten_rows(op.body)
        body, sizes = (op.body, {}) if flat is None else (flat[0], {ROWS: flat[1]})
        if body not in self._bodies:
            self._bodies[body] = rows.emit(body, f"{op.body.name}_{len(self._bodies)}")
        return [[self._row_launch(launch, sizes)] for launch in self._bodies[body]]

    def _row_launch(self, launch: rows.Launch, sizes: Mapping[str, Dim]) -> Launch:
        kernel = launch.kernel
        self.kernels[kernel.name] = kernel
        work = _substituted(launch.work, sizes)
        return Launch(kernel.name, kernel.threads, Size.of(work), launch.per, 1, None,
                      _arguments(kernel, sizes))  # fmt: skip

    def _matmul(self, matrix: ternary.Matrix, count: Dim) -> Choices:
        made: list[Launch] = []
        for kind in ternary.KINDS:
            name = f"ternary_{kind.name}_{matrix.n}_{matrix.k}"
            if name not in self.kernels:
                self.kernels[name] = kind.emit(matrix, name)
            kernel = self.kernels[name]
            blocks = -(-matrix.tiles // kind.tiles)
            made.append(
                Launch(name, kernel.threads, Size.of(count), kind.rows, blocks, kind.most_rows,
                       _arguments(kernel, {ROWS: count}))
            )  # fmt: skip
        return made


def source(
    entries: Mapping[str, Sequence[Sequence[Choices]]], program: Program, architecture: str
) -> tuple[str, dict[str, list[list[Choices]]]]:
    """The CUDA source, and the launches with their arguments in the order of its kernels."""
    made = generate([program.kernels[name] for name in sorted(program.kernels)], architecture)

    def ordered(launch: Launch) -> Launch:
        names = tuple(program.kernels[launch.kernel].parameters)
        given = {**dict(zip(names, launch.arguments, strict=True)), "blocks": "blocks"}
        return replace(launch, arguments=tuple(given[n] for n in made.parameters[launch.kernel]))

    return made.text, {
        name: [[[ordered(x) for x in step] for step in kernel] for kernel in kernels]
        for name, kernels in entries.items()
    }


def _arguments(kernel: DeviceKernel, sizes: Mapping[str, Dim]) -> tuple[str | Size, ...]:
    """Pointers by name, sizes as numbers."""
    return tuple(
        name if kind.endswith("*") else Size.of(_size(name.removeprefix("size_"), sizes))
        for name, kind in kernel.parameters.items()
    )


def _size(name: str, sizes: Mapping[str, Dim]) -> Dim:
    return sizes[name] if name in sizes else symbol(name)


def _substituted(dim: Dim, sizes: Mapping[str, Dim]) -> Dim:
    """The dimension with sizes in place of symbols."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        product: Dim = coefficient
        for name in monomial:
            product = product * _size(name, sizes)
        total = total + product
    return total
