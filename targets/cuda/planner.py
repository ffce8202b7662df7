"""Finds the phases of a graph (`mmc.targets.cuda.phases`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmc.ir.op import Value, producer
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.ops.source import Input, Weight
from mmc.ir.packing import TILE_ROWS
from mmc.ir.types import DType
from mmc.targets.cuda.epilogue import Epilogue, split
from mmc.targets.cuda.launches import Word
from mmc.targets.cuda.phases import HEAD, PARTS, WORDS, Kind, Phases, Source
from mmc.targets.cuda.ternary import Matrix
from mmc.targets.cuda.work import Consumer
from mmc.targets.tvm.plan import Plan, lone_matmul, root_of, with_consumers
from mmc.targets.tvm.primitives import primitive_outputs
from mmc.targets.tvm.rowwise import flatten_rows
from mmc.targets.tvm.stages import cone, is_row_scalar

_LINE = 32
"""Floats that the places of the exchange begin at multiples of."""


class Unfit(Exception):
    """The graph cannot be taken phase by phase; launches do it."""


def phases_of(plan: Plan) -> Phases | None:
    """The phases of a graph; None where it takes launches."""
    try:
        return _Planner(plan).planned()
    except Unfit:
        return None


@dataclass
class _Planner:
    plan: Plan
    kinds: dict[Kind, int] = field(default_factory=dict[Kind, int])
    slots: dict[object, int] = field(default_factory=dict[object, int])
    floats: int = 0

    def planned(self) -> Phases:
        self.numbers = {op: i for i, op in enumerate(self.plan.kernels)}
        self.groups = with_consumers(self.plan.kernels)
        makers = [maker for maker, *_ in self.groups]
        flat = [flatten_rows(maker.body) for maker in makers]
        found = [made for made in flat if made is not None]
        rows = {count for _, count in found}
        if len(self.groups) < 2 or len(found) < len(flat) or len(rows) > 1:
            raise Unfit
        if all(isinstance(count, int) and count != 1 for count in rows):
            raise Unfit
        self.bodies = [body for body, _ in found]
        self.sources = [self._sources(i) for i in range(len(makers))]
        self.read = {root_of(x) for maker in makers for x in maker.operands}
        self.wanted = {root_of(value) for value in self.plan.graph.values}
        self.epilogues = [None, *(self._epilogue(i) for i in range(1, len(makers)))]
        phases = [self._phase(i) for i in range(len(makers) - 1)]
        self._require_nothing_left()
        return Phases(found[0][1], tuple(self.kinds), tuple(phases), self.floats)

    def _sources(self, number: int) -> tuple[Source, ...]:
        return tuple(self._source(number, root_of(x)) for x in self.groups[number][0].operands)

    def _source(self, number: int, value: Value) -> Source:
        op = producer(value)
        if isinstance(op, Input | Weight):
            return Source("memory")
        before = self.groups[number - 1] if number else []
        for i, matmul in enumerate(before[1:]):
            if op is matmul:
                return Source("sum", i)
        if is_row_scalar(value) and before and op is before[0]:
            return Source("scalar", before[0].results.index(value))
        earlier = any(op is group[0] for group in self.groups[:number])
        if not earlier or is_row_scalar(value) or value.type.dtype is not DType.F32:
            raise Unfit
        return Source("exchange")

    def _epilogue(self, number: int) -> Epilogue:
        body = self.bodies[number]
        pairs = zip(body.inputs, self.sources[number], strict=True)
        sums = [op for op, source in pairs if source.kind == "sum"]
        made = split(body.inputs, primitive_outputs(body), sums)
        matmuls = self.groups[number - 1][1:]
        if made is None or len(sums) != len(matmuls) or len(made.parts) > PARTS:
            raise Unfit
        return made

    def _require_nothing_left(self) -> None:
        """The last kernel is an epilogue as a whole."""
        last, epilogue = self.bodies[-1], self.epilogues[-1]
        if (
            epilogue is None
            or self.groups[-1][1:]
            or set(primitive_outputs(last)) - {*epilogue.cut}
        ):
            raise Unfit

    def _phase(self, number: int) -> tuple[int, Mapping[str, Word]]:
        maker, *matmuls = self.groups[number]
        before, epilogue = self.epilogues[number], self.epilogues[number + 1]
        assert epilogue is not None
        cut = before.cut if before else ()
        outputs = self._row_outputs(number, cut)
        kept = self._kept(number + 1, epilogue)
        given = self._row_arguments(number, cut, outputs)
        given |= self._epilogue_arguments(number + 1, epilogue, kept)
        kind = Kind(
            self.bodies[number], self.sources[number], cut,
            tuple(self._consumer(maker, op) for op in matmuls),
            tuple(i for i in outputs if maker.results[i] in self.wanted),
            tuple(i for i in outputs if maker.results[i] in self.read),
            self.bodies[number + 1], self.sources[number + 1], epilogue, kept, tuple(given),
        )  # fmt: skip
        self._require_fit(kind)
        for i, (matrix, part) in enumerate(zip(kind.parts, epilogue.parts, strict=True)):
            weights = f"{self.numbers[matmuls[matrix]]}.in_1"
            given[f"w_{i}"] = weights, part.start // TILE_ROWS * kind.tile_bytes
        return self.kinds.setdefault(kind, len(self.kinds)), given

    def _kept(self, number: int, epilogue: Epilogue) -> tuple[int, ...]:
        """Which values of an epilogue the caller wants."""
        results = (self._result(number, value) for value in epilogue.cut)
        return tuple(i for i, result in enumerate(results) if result in self.wanted)

    def _require_fit(self, kind: Kind) -> None:
        widths = {(consumer.matrix.k, consumer.matrix.layout) for consumer in kind.consumers}
        if len(widths) != 1 or len(kind.arguments) + HEAD > WORDS:
            raise Unfit

    def _row_outputs(self, number: int, cut: Sequence[Value]) -> list[int]:
        """The outputs of a row's program that are not activations, scalars or cut."""
        maker, found = self.groups[number][0], list[int]()
        values = primitive_outputs(self.bodies[number])
        for i, (value, result) in enumerate(zip(values, maker.results, strict=True)):
            activations = value.type.dtype is DType.I8
            if (activations or is_row_scalar(value)) and result in self.wanted:
                raise Unfit
            if activations or is_row_scalar(value) or value in cut:
                continue
            if value.type.dtype is not DType.F32:
                raise Unfit
            found.append(i)
        return found

    def _row_arguments(
        self, number: int, cut: Sequence[Value], outputs: Sequence[int]
    ) -> dict[str, Word]:
        maker, body = self.groups[number][0], self.bodies[number]
        values = primitive_outputs(body)
        used = set(cone([v for v in values if v not in cut], {*body.inputs, *cut}))
        given = self._inputs(number, "in", used)
        given |= {f"cut_{i}": self._slot(number, value) for i, value in enumerate(cut)}
        for i in outputs:
            if maker.results[i] in self.wanted:
                given[f"out_{i}"] = self._output(maker, i)
            if maker.results[i] in self.read:
                given[f"made_{i}"] = self._slot(number, values[i])
        return given

    def _epilogue_arguments(
        self, number: int, epilogue: Epilogue, kept: Sequence[int]
    ) -> dict[str, Word]:
        parts = {part.value for part in epilogue.parts}
        used = set(cone(epilogue.made, {*self.bodies[number].inputs, *parts}))
        given = self._inputs(number, "next", used)
        if number < len(self.groups) - 1:
            for i, value in enumerate(epilogue.cut):
                given[f"cut_of_next_{i}"] = self._slot(number, value)
        for i in kept:
            position = self._position(number, epilogue.cut[i])
            given[f"kept_{i}"] = self._output(self.groups[number][0], position)
        return given

    def _inputs(self, number: int, name: str, used: set[Value]) -> dict[str, Word]:
        """Words for the inputs of a row's program that are read."""
        given: dict[str, Word] = {}
        maker = self.groups[number][0]
        for i, (op, source) in enumerate(
            zip(self.bodies[number].inputs, self.sources[number], strict=True)
        ):
            if op in used and source.kind == "memory":
                given[f"{name}_{i}"] = f"{self.numbers[maker]}.in_{i}", 0
            elif op in used and source.kind == "exchange":
                given[f"{name}_{i}"] = self._slot_of(root_of(maker.operands[i]), op)
            elif op in used and name == "in":
                raise Unfit
        return given

    def _consumer(self, maker: Kernel, op: Kernel) -> Consumer:
        matmul = lone_matmul(op.body)
        assert matmul is not None
        return Consumer(maker.results.index(op.operands[0]), Matrix.of(matmul.w))

    def _position(self, number: int, value: Value) -> int:
        return primitive_outputs(self.bodies[number]).index(value)

    def _result(self, number: int, value: Value) -> Value | None:
        """What the graph calls a value of a row's program, where it is an output."""
        if value not in primitive_outputs(self.bodies[number]):
            return None
        return self.groups[number][0].results[self._position(number, value)]

    def _output(self, maker: Kernel, position: int) -> Word:
        return f"{self.numbers[maker]}.out_{position}", 0

    def _slot(self, number: int, value: Value) -> int:
        """The place in the exchange of a value of a row's program."""
        return self._slot_of(self._result(number, value) or (number, value), value)

    def _slot_of(self, key: object, value: Value) -> int:
        if key not in self.slots:
            columns = value.type.shape[-1]
            assert isinstance(columns, int)
            self.slots[key] = self.floats
            self.floats += -(-columns // _LINE) * _LINE
        return self.slots[key]
