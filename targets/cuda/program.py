"""From graphs of kernels to one CUDA source and the launches of each graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mmc.ir.graph import Graph
from mmc.ir.op import Op
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.types import Dim, numel, symbol
from mmc.targets.cuda import attention, fused, persistent, products, rows
from mmc.targets.cuda.code import DeviceKernel, generate
from mmc.targets.cuda.launches import Argument, Choice, Entry, Group, Launch, Persistent
from mmc.targets.cuda.planner import phases_of
from mmc.targets.cuda.products import FEW_ROWS
from mmc.targets.cuda.ternary import Matrix
from mmc.targets.cuda.tuning import Tuning, fitting
from mmc.targets.cuda.work import BLOCKS, Consumer
from mmc.targets.tvm.attention import has_kernel
from mmc.targets.tvm.plan import Plan, lone_matmul, with_consumers
from mmc.targets.tvm.rowwise import ROWS, flatten_rows


@dataclass
class Program:
    """Collects the kernels of several graphs; equal bodies share theirs."""

    tuning: Tuning
    kernels: dict[str, DeviceKernel] = field(default_factory=dict[str, DeviceKernel])
    _bodies: dict[tuple[Graph, bool], list[rows.RowLaunch]] = field(
        default_factory=dict[tuple[Graph, bool], list[rows.RowLaunch]]
    )
    _attention: dict[Graph, list[attention.AttentionLaunch]] = field(
        default_factory=dict[Graph, "list[attention.AttentionLaunch]"]
    )
    _fused: dict[object, fused.FusedLaunch | None] = field(
        default_factory=dict[object, "fused.FusedLaunch | None"]
    )

    def groups(self, plan: Plan) -> list[Group]:
        """What is launched, in order; arguments are named, not yet in the kernels' order."""
        numbers: dict[Op, int] = {op: i for i, op in enumerate(plan.kernels)}
        return [self._group(members, numbers) for members in with_consumers(plan.kernels)]

    def _group(self, members: Sequence[Kernel], numbers: Mapping[Op, int]) -> Group:
        maker, *consumers = members
        if has_kernel(maker.body):
            return self._attention_choices(maker, numbers[maker])
        count = numel(members[-1].types[0].shape[:-1])
        choices: list[Choice] = []
        together = self._together(maker, consumers, numbers) if consumers else None
        if together is not None:
            choices.append(Choice(FEW_ROWS, count, (together,)))
        for kind in products.KINDS:
            if together is not None and (kind.most_rows or FEW_ROWS + 1) <= FEW_ROWS:
                continue
            each = (self._launches(op, numbers[op], kind) for op in members)
            choices.append(Choice(kind.most_rows, count, tuple(x for made in each for x in made)))
        alike = all(choice.launches == choices[0].launches for choice in choices)
        return [replace(choices[0], most_rows=None)] if alike else choices

    def _launches(self, op: Kernel, number: int, kind: products.Kind) -> list[Launch]:
        matmul = lone_matmul(op.body)
        if matmul is None:
            return self._row_launches(op, number, kind.most_rows)
        matrix, count = Matrix.of(matmul.w), numel(op.operands[0].type.shape[:-1])
        tuned = self.tuning.products.get(products.key(kind.name, matrix))
        form = fitting(tuned or kind.rule(matrix), matrix.words)
        name = f"ternary_{kind.name}_{matrix.n}_{matrix.k}_{matrix.layout.replace('.', '_')}"
        if name not in self.kernels:
            self.kernels[name] = products.emit(form, matrix, name)
        kernel, times = self.kernels[name], -(-matrix.tiles // form.tiles)
        given = _arguments(kernel, number, {ROWS: count})
        return [
            Launch(
                name, kernel.threads, count, form.rows, times, given, kernel.shared, kernel.waits
            )
        ]  # fmt: skip

    def _attention_choices(self, op: Kernel, number: int) -> list[Choice]:
        if op.body not in self._attention:
            name = f"{op.body.name}_{len(self._attention)}"
            self._attention[op.body] = attention.emit(op.body, name)
        choices: list[Choice] = []
        for made in self._attention[op.body]:
            kernel = made.kernel
            self.kernels[kernel.name] = kernel
            given = _arguments(kernel, number, {})
            launch = Launch(kernel.name, kernel.threads, made.work, made.per, made.times, given)
            choices.append(Choice(made.most_steps, made.steps, (launch,)))
        return choices

    def _row_launches(self, op: Kernel, number: int, most_rows: int | None) -> list[Launch]:
        body, sizes = _flat(op)
        few = most_rows is not None and most_rows <= rows.A_FEW and rows.has_long_rows(body)
        if (body, few) not in self._bodies:
            name = f"{op.body.name}_{len(self._bodies)}"
            self._bodies[body, few] = rows.emit(body, name, few)
        made: list[Launch] = []
        for launch in self._bodies[body, few]:
            kernel = launch.kernel
            self.kernels[kernel.name] = kernel
            work = _substituted(launch.work, sizes)
            given = _arguments(kernel, number, sizes)
            made.append(Launch(kernel.name, kernel.threads, work, launch.per, 1, given))
        return made

    def _together(
        self, maker: Kernel, matmuls: Sequence[Kernel], numbers: Mapping[Op, int]
    ) -> Launch | None:
        """One launch for a kernel and the matrices behind it, where there is one."""
        body, sizes = _flat(maker)
        consumers: list[Consumer] = []
        for op in matmuls:
            matmul = lone_matmul(op.body)
            assert matmul is not None
            output = maker.results.index(op.operands[0])
            consumers.append(Consumer(output, Matrix.of(matmul.w)))
        key = body, tuple(consumers)
        if key not in self._fused:
            name = f"{maker.body.name}_with_{len(consumers)}_{len(self._fused)}"
            self._fused[key] = fused.emit(body, consumers, name)
        made = self._fused[key]
        if made is None:
            return None
        kernel = made.kernel
        self.kernels[kernel.name] = kernel
        given = dict(zip(kernel.parameters, _arguments(kernel, numbers[maker], sizes), strict=True))
        for i, op in enumerate(matmuls):
            given |= {f"w_{i}": f"{numbers[op]}.in_1", f"acc_{i}": f"{numbers[op]}.out_0"}
        work = _substituted(fused.work(body), sizes)
        return Launch(kernel.name, kernel.threads, work, 1, made.blocks, tuple(given.values()))

    def persistent(self, plan: Plan, entry: str) -> Persistent | None:
        """One launch in place of all groups, where the graph allows it."""
        phases = phases_of(plan) if self.tuning.token == "one launch" else None
        if phases is None:
            return None
        kernel = persistent.emit(phases, f"{entry}_phases")
        if kernel is None:
            return None
        self.kernels[kernel.name] = kernel
        words = tuple(tuple(each) for each in phases.words())
        return Persistent(
            kernel.name, tuple(kernel.parameters), BLOCKS, kernel.threads,
            kernel.shared, phases.floats, phases.under_way, phases.rows, words,
        )  # fmt: skip


def source(
    entries: Mapping[str, Entry], program: Program, architecture: str
) -> tuple[str, dict[str, Entry]]:
    """The CUDA source, and the launches with their arguments in the order of its kernels."""
    made = generate([program.kernels[name] for name in sorted(program.kernels)], architecture)

    def ordered(launch: Launch) -> Launch:
        names = tuple(program.kernels[launch.kernel].parameters)
        given = {**dict(zip(names, launch.arguments, strict=True)), "blocks": "blocks"}
        return replace(launch, arguments=tuple(given[n] for n in made.parameters[launch.kernel]))

    def entry(given: Entry) -> Entry:
        groups = [
            [replace(c, launches=tuple(map(ordered, c.launches))) for c in group]
            for group in given.groups
        ]
        one = given.persistent
        return Entry(groups, one and replace(one, parameters=made.parameters[one.kernel]))

    return made.text, {name: entry(given) for name, given in entries.items()}


def _flat(op: Kernel) -> tuple[Graph, dict[str, Dim]]:
    """The body over rows, where it goes row by row, and what its symbols stand for."""
    flat = flatten_rows(op.body)
    return (op.body, {}) if flat is None else (flat[0], {ROWS: flat[1]})


def _arguments(kernel: DeviceKernel, number: int, sizes: Mapping[str, Dim]) -> tuple[Argument, ...]:
    """What belongs to kernel `number` of the graph by name, sizes as dimensions."""
    return tuple(
        _size(name.removeprefix("size_"), sizes) if name.startswith("size_") else f"{number}.{name}"
        for name in kernel.parameters
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
