# pyright: basic
# NVIDIA's bindings are not typed.
"""Measure which form of a product, and which plan of a token, is fastest on the GPU that is here.

The forms of each product of a model are compiled by a pool of processes (the compiler's cache keeps
them), give the sums of the form that the rule takes, and are timed in turn, round after round, on
weights that no cache holds.  Then the model is built with the fastest, and generates with one
launch a token and with many.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.ir.ops.recurrence import Kernel
from mmc.ir.packing import pack
from mmc.ir.types import static_shape
from mmc.targets.base import Built
from mmc.targets.cuda import architecture, products
from mmc.targets.cuda.build import write
from mmc.targets.cuda.code import generate
from mmc.targets.cuda.compiler import compile_source
from mmc.targets.cuda.driver import Event, Memory, device
from mmc.targets.cuda.executable import CudaExecutable, planned
from mmc.targets.cuda.launch import INT32, INT64, POINTER, Code, Recorded, launch
from mmc.targets.cuda.launches import Entry, from_json
from mmc.targets.cuda.ternary import Matrix
from mmc.targets.cuda.tuning import FILE, FORMS, Form, Plan, Tuning, fitting, to_json
from mmc.targets.tvm.plan import lone_matmul
from mmc.targets.weights_file import WeightsFile

COLD_BYTES = 160e6
"""Weights that follow one another: more than a cache holds."""

ROUNDS = 7

GAIN = 1.02
"""How much faster than the rule's a form must be: less may be chance."""

ROWS = {"few": 1, "two": 2, "some": 8, "several": 32, "many": 128, "hundreds": 512, "most": 2048}
"""Rows of q that a kind is timed with."""

STEPS = 64
"""Tokens that a plan is timed with."""

Say = Callable[[str, float], None]


@dataclass(frozen=True)
class Job:
    """The forms of a kind of product with one matrix, the rule's first."""

    kind: str
    matrix: Matrix
    forms: tuple[Form, ...]

    @property
    def name(self) -> str:
        return products.key(self.kind, self.matrix)


@dataclass(frozen=True)
class Compiled:
    """Code with a kernel `form_i` for each form of a job, and the order of its parameters."""

    code: bytes
    parameters: Sequence[tuple[str, ...]]


def tune(
    folder: Path, entries: Mapping[str, Graph], architectures: Sequence[str], progress: Say
) -> tuple[Built, Sequence[str]]:
    """Replace `lib` of an artefact by a faster one, and write what was chosen beside it."""
    own = architecture.best(architectures, device().capability)
    if own is None:
        raise MmcError(
            f"holds code for {', '.join(architectures)}, not for {device().name}", str(folder),
            "compile it for this GPU first",
        )  # fmt: skip
    jobs = jobs_of(entries)
    chosen: dict[str, Form] = {}
    told: list[str] = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        compiling = pool.map(partial(compiled, own), jobs)
        for i, (job, code) in enumerate(zip(jobs, compiling, strict=True)):
            progress(job.name, i / len(jobs))
            times = measured(job, code)
            form = fastest(times)
            told.append(f"{job.name}: {described(times, form)}")
            if form != job.forms[0]:
                chosen[job.name] = form
    tuning = Tuning(device().name, chosen)
    progress("one launch or many", 1.0)
    plans = plans_measured(folder, entries, own, tuning)
    if plans:
        plan = min(plans, key=plans.__getitem__)
        told.append(f"a token: {described(plans, plan)}")
        tuning = replace(tuning, token=plan)
    shutil.rmtree(folder / "lib")
    built = write(folder / "lib", entries, architectures, tuning, lambda _: None)
    (folder / FILE).write_text(to_json(tuning))
    return built, told


def jobs_of(entries: Mapping[str, Graph]) -> list[Job]:
    """Every kind of product with every matrix of the graphs."""
    bodies = {op.body for graph in entries.values() for op in graph if isinstance(op, Kernel)}
    products_of = (lone_matmul(body) for body in bodies)
    matrices = {Matrix.of(m.w) for m in products_of if m is not None}
    return [
        Job(kind.name, matrix, tuple(dict.fromkeys(fitting(form, matrix.words) for form in forms)))
        for matrix in sorted(matrices, key=str)
        for kind in products.KINDS
        for forms in [(kind.rule(matrix), *FORMS[kind.name])]
    ]


def compiled(own: str, job: Job) -> Compiled:
    """The code of all forms of a job."""
    kernels = [products.emit(form, job.matrix, f"form_{i}") for i, form in enumerate(job.forms)]
    made = generate(kernels, own)
    return Compiled(
        compile_source(made.text, own), [made.parameters[kernel.name] for kernel in kernels]
    )


def measured(job: Job, made: Compiled) -> dict[Form, float]:
    """Seconds of one product by form; MmcError where one gives other sums than the rule's."""
    bench = _Bench(job, Code(made.code), made.parameters)
    wanted = bench.sums(0)
    for i, form in enumerate(job.forms):
        if not np.array_equal(bench.sums(i), wanted):
            raise MmcError(f"{form} gives other sums than {job.forms[0]}", job.name)
    runs = {form: bench.recorded(i) for i, form in enumerate(job.forms)}
    rounds = [{form: _seconds(run) for form, run in runs.items()} for _ in range(ROUNDS)]
    return {
        form: statistics.median(times[form] for times in rounds) / bench.copies for form in runs
    }


class _Bench:
    """Random weights, in copies that follow one another, and rows of q."""

    def __init__(self, job: Job, code: Code, parameters: Sequence[tuple[str, ...]]) -> None:
        self.job, self.code, self.parameters = job, code, parameters
        matrix, self.rows = job.matrix, ROWS[job.kind]
        random = np.random.default_rng(0)
        packed = pack(random.integers(-1, 2, (matrix.n, matrix.k), np.int8), matrix.layout)
        self.copies, self.bytes = -(-int(COLD_BYTES) // packed.size), packed.size
        self.weights = Memory(self.copies * packed.size)
        self.weights.write(0, packed)
        for copy in range(1, self.copies):
            self.weights.copy(copy * packed.size, self.weights.address, packed.size)
        q = np.zeros((self.rows, 4 * matrix.q_words), np.int8)
        q[:, : matrix.k] = random.integers(-128, 128, (self.rows, matrix.k), np.int8)
        self.q, self.acc = Memory(q.nbytes), Memory(4 * self.rows * matrix.n)
        self.q.write(0, q)
        device().synchronize()

    def launch(self, number: int, copy: int = 0) -> None:
        job, form = self.job, self.job.forms[number]
        blocks = -(-job.matrix.tiles // form.tiles) * -(-self.rows // form.rows)
        given: dict[str, tuple[int, Any]] = {
            "in_1": (self.weights.address + copy * self.bytes, POINTER),
            "in_0": (self.q.address, POINTER), "out_0": (self.acc.address, POINTER),
            "size_rows": (self.rows, INT64), "blocks": (blocks, INT32),
        }  # fmt: skip
        shared, name = form.shared(job.matrix.words), f"form_{number}_kernel"
        function = self.code.kernel(name, shared)
        early = self.code.can_wait(name)
        arguments = [given[name] for name in self.parameters[number]]
        launch(
            function,
            blocks,
            form.warps * 32,
            arguments,
            shared,
            early=early,
        )

    def sums(self, number: int) -> np.ndarray:
        self.acc.fill(0)
        self.launch(number)
        sums = np.empty((self.rows, self.job.matrix.n), np.int32)
        self.acc.read(0, sums)
        return sums

    def recorded(self, number: int) -> Recorded:
        def record() -> None:
            for copy in range(self.copies):
                self.launch(number, copy)

        return Recorded(record)


def _seconds(run: Callable[[], object]) -> float:
    begin = Event()
    run()
    end = Event()
    end.wait()
    return end.seconds_since(begin)


def fastest(times: Mapping[Form, float]) -> Form:
    """The form that is fastest, or the first one, where that is as fast."""
    rule, best = next(iter(times)), min(times, key=times.__getitem__)
    return best if times[rule] > GAIN * times[best] else rule


def described(times: Mapping[Any, float], chosen: object) -> str:
    """The choice and its time beside that of the rule, which is the first."""
    rule = next(iter(times))
    return f"{chosen} {1e6 * times[chosen]:.2f} us, {rule} {1e6 * times[rule]:.2f} us"


def plans_measured(
    folder: Path, entries: Mapping[str, Graph], own: str, tuning: Tuning
) -> dict[Plan, float]:
    """Seconds of a token by plan; empty where there is no choice."""
    if "token" not in entries:
        return {}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        write(Path(temporary, "lib"), entries, (own,), tuning, lambda _: None)
        launches = from_json(Path(temporary, "lib", "launches.json").read_text())
        code = Code(Path(temporary, "lib", f"{own}.cubin").read_bytes())
    many = Entry(launches["token"].groups)
    if launches["token"] == many:
        return {}
    weights = WeightsFile.open(folder / "weights.safetensors")
    plan = {"token": planned(entries["token"])}
    entry_of: dict[Plan, Entry] = {"one launch": launches["token"], "launches": many}
    times: dict[Plan, float] = {}
    for name, entry in entry_of.items():
        executable = CudaExecutable(code, weights, plan, {"token": entry})
        step = executable.repeated("token", _one_token(entries["token"]))
        step()
        times[name] = statistics.median(_seconds(step) for _ in range(STEPS))
    return times


def _one_token(graph: Graph) -> dict[str, np.ndarray]:
    """Token 0 behind an empty state."""
    shapes = {op.name: op.type.bind({"B": 1, "T": 1}) for op in graph.inputs}
    given = {n: np.zeros(static_shape(t.shape), t.dtype.numpy) for n, t in shapes.items()}
    return given | ({"lengths": np.ones_like(given["lengths"])} if "lengths" in given else {})
