"""Compile: from a checkpoint or module to an artefact, with every step on the way kept."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmc.artifact import Artifact, Contents, refuse_other_folder, write_artifact
from mmc.embedding import EMBEDDINGS, in_fewer_bits
from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.ir.ops.attention import POSITION
from mmc.ir.types import static_shape
from mmc.kv_cache import KV_CACHES, with_int8_caches
from mmc.layers import Layer, Recurrence, doubtful_scales, linear_layers, recurrences
from mmc.passes.base import Pass
from mmc.passes.check import PassCheck, check_pass
from mmc.passes.manager import PassManager, Step
from mmc.passes.registry import PASSES, load_pass
from mmc.targets.base import BuildOptions, Target
from mmc.targets.registry import load_target

if TYPE_CHECKING:
    from mmc.frontends.base import Imported, Kind

_log = logging.getLogger(__name__)

FIND: tuple[str, ...] = PASSES[: PASSES.index("matmul-to-ternary") + 1]
"""The passes that recognise what a model is."""

REWRITE: tuple[str, ...] = PASSES[len(FIND) : PASSES.index("to-fixed-point")]
"""The passes that make it fast on every target."""

Progress = Callable[[str, float], None]
"""Hears the name of a stage and how much of the whole is done, 0 to 1."""


@dataclass(frozen=True)
class CompileOptions:
    """What the user asks of a compilation; see `mmc compile --help`."""

    target: str = "cpu"
    """The name of a target, with a processor or architecture behind a colon: cuda:sm_90a."""
    weights: str | None = None
    check: bool = False
    no_fallback: bool = False
    require_matmul_free: bool = False
    dump_ir: Path | None = None
    print_after: str | None = None
    mcpu: str | None = None
    embedding: str | None = None
    tuning: Path | None = None
    board: str | None = None
    target_tps: float | None = None
    context: int | None = None
    i2s: str | None = None
    kv_cache: str | None = None

    @property
    def build(self) -> BuildOptions:
        """What concerns the target."""
        _, colon, named = self.target.partition(":")
        if colon and not named:
            raise MmcError("there is no name behind the colon", f"--target {self.target[:-1]}")
        if named and self.mcpu:
            raise MmcError(f"{self.target} names one already", "--mcpu", "leave it out")
        return BuildOptions(
            named or self.mcpu, self.check, self.tuning, self.weights, self.board, self.target_tps
        )


@dataclass
class Compilation:
    """A model on its way through the passes."""

    imported: Imported
    manager: PassManager
    core: Graph
    layers: list[Layer]
    recurrences: list[Recurrence]
    checks: list[PassCheck] = field(default_factory=list[PassCheck])

    @property
    def steps(self) -> list[Step]:
        return self.manager.steps


def analyse(imported: Imported, progress: Progress = lambda _, __: None) -> Compilation:
    """Run the passes that recognise ternary layers and recurrences; changes nothing on disk."""
    manager = PassManager(imported.tensors, lambda name: progress(name, 0.2))
    core = manager.run(imported.graph, [load_pass(name) for name in FIND])
    layers = linear_layers(core, imported.tensors, manager.steps)
    if doubt := doubtful_scales(layers):
        _log.warning("%s: %s", imported.source, doubt)
    return Compilation(imported, manager, core, layers, recurrences(core, manager.steps))


def compile_model(
    imported: Imported, out: Path, options: CompileOptions, progress: Progress = lambda _, __: None
) -> Artifact:
    """Compile an imported model into the folder `out`; a failure leaves nothing behind."""
    target = _usable_target(options)
    if options.embedding:
        imported = in_fewer_bits(imported, options.embedding)
    if options.kv_cache:
        imported = with_int8_caches(imported)
    done = analyse(imported, progress)
    _refuse(done, options)
    manager = done.manager
    core = manager.run(done.core, _rewrites(target, options))
    made = {
        name: manager.run(start.renamed(name), passes)
        for name, start, passes in entries(imported.kind, core, target)
    }
    for graph in made.values():
        _refuse_unsupported(target, graph)
    if options.print_after:
        print_after(manager.steps, options.print_after)
    if options.check:
        progress("check", 0.4)
        done.checks = check_steps(done)
    contents = Contents(
        imported, target.name, made, manager.steps, done.layers, done.recurrences, done.checks
    )
    return write_artifact(out, contents, target, imported.tensors, options, progress)


def _rewrites(target: Target, options: CompileOptions) -> list[Pass]:
    """The passes between what a model is and the entries."""
    can = target.capabilities
    names = [name for name in REWRITE if not (can.fixed_point and name == "merge-projections")]
    # What stayed dense gets its plain weights back: hence the second folding.
    passes = [load_pass(name) for name in (*names, "fold-constants")]
    if can.fixed_point:
        passes.append(load_pass("to-fixed-point"))
    if can.widens:
        passes.append(load_pass("narrow-weights"))
    if can.weight_layouts:
        layout = can.stored_layout or _layout(target, options)
        given = {"layout": layout, "machine": can.machine}
        passes.append(load_pass("pack-ternary", given))
    return passes


def refuse_early(out: Path, options: CompileOptions) -> None:
    """Raise MmcError for options that cannot work, before a model is loaded for minutes."""
    target = _usable_target(options)
    target.refuse(options.build)
    for option, given in (("--board", options.board), ("--target-tps", options.target_tps)):
        if given is not None and not target.capabilities.boards:
            raise MmcError(f"target {target.name} has no boards", option, "leave it out")
    _layout(target, options)
    can = target.capabilities
    _refuse_kind(target, "--embedding", options.embedding, EMBEDDINGS, can.embeddings)
    _refuse_kind(target, "--kv-cache", options.kv_cache, KV_CACHES, can.kv_caches)
    if options.print_after not in (None, "all", *PASSES):
        raise _no_such_pass(options.print_after)
    if options.tuning is not None:
        require_tunes(target, "--tuning")
    refuse_other_folder(out)


def _refuse_kind(
    target: Target, option: str, given: str | None, known: Collection[str], taken: Sequence[str]
) -> None:
    """Raise MmcError for numbers of a kind that nothing has, or that the target does not take."""
    if given in (None, *taken):
        return
    problem = f"no kind {given!r}" if given not in known else f"target {target.name} has no {given}"
    raise MmcError(problem, option, f"one of {', '.join(taken)}" if taken else "leave it out")


def require_tunes(target: Target, where: str) -> None:
    """Raise MmcError for a target that goes by estimates alone."""
    if not target.capabilities.tunes:
        raise MmcError(f"target {target.name} has nothing to tune", where, "cuda has")


def _no_such_pass(name: str | None) -> MmcError:
    return MmcError(f"no pass {name!r} ran", "--print-after", f"one of {', '.join(PASSES)} or all")


def _usable_target(options: CompileOptions) -> Target:
    target = load_target(options.target.partition(":")[0])
    if problems := target.problems():
        raise MmcError(problems[0], f"target {target.name}", "see `mmc doctor`")
    return target


def _layout(target: Target, options: CompileOptions) -> str:
    known = target.capabilities.weight_layouts
    if options.weights is not None and options.weights not in known:
        raise MmcError(
            f"no weight layout {options.weights!r}", "--weights", f"one of {', '.join(known)}"
        )
    return options.weights or target.default_layout(options.build)


def entries(kind: Kind, core: Graph, target: Target) -> list[tuple[str, Graph, list[Pass]]]:
    """The entries of the artefact, and the graph and the passes that make each."""
    able = target.capabilities
    factor = [load_pass("factor-norms")] if able.factors else []
    sums = {"sum_states": able.sums_states}
    fuse = [load_pass("fuse-kernels", sums)] if able.kernels else []
    if kind != "causal_lm":
        return [("forward", core, [*factor, *fuse])]
    last, single = load_pass("last-position"), load_pass("single-step")
    made = [("forward", core, [*factor, *fuse]), ("step", core, [*factor, last, *fuse])]
    if able.token:
        made.append(("token", core.bind({"T": 1}), [*factor, single, *fuse]))
    return made


def _refuse(done: Compilation, options: CompileOptions) -> None:
    """Stop where the model is not what the user requires."""
    dense = [f"{layer.name}: {layer.why}" for layer in done.layers if not layer.ternary]
    scans = [f"{r.name}: {r.why}" for r in done.recurrences if not r.linear]
    if options.require_matmul_free and dense:
        raise MmcError(
            f"{len(dense)} MatMuls are left:\n  " + "\n  ".join(dense), "--require-matmul-free"
        )
    if options.no_fallback and dense + scans:
        listed = "\n  ".join(dense + scans)
        raise MmcError(
            f"{len(dense + scans)} parts fall back to a slow path:\n  {listed}", "--no-fallback"
        )


def _refuse_unsupported(target: Target, graph: Graph) -> None:
    missing = target.unsupported(graph)
    if missing:
        op, why = missing[0]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise MmcError(
            f"{op.mnemonic}: {why}{more}", str(op.origin or ""), "--target reference runs it"
        )


def print_after(steps: Sequence[Step], name: str) -> None:
    """Print on stderr what a pass, or every pass ("all"), changed."""
    chosen = [step for step in steps if name in ("all", step.name)]
    if not chosen:
        raise _no_such_pass(name)
    for step in chosen:
        sys.stderr.write(f"{step.summary()}\n{step.diff()}\n")


def check_steps(done: Compilation) -> list[PassCheck]:
    """Run every step's graphs on probe inputs; raise MmcError where they disagree."""
    tensors = done.imported.tensors
    checks = [
        check_pass(
            s.name, s.before, s.after, s.mapped, tensors, [probe_inputs(done.imported, s.before)]
        )
        if s.exact
        else PassCheck(s.name, s.after.name, note="changes numbers: measure it by `mmc eval`")
        for s in done.steps
    ]
    failed = [failure for check in checks for failure in check.failures]
    if failed:
        raise MmcError(
            f"{len(failed)} comparisons failed:\n  " + "\n  ".join(failed[:20]), "--check"
        )
    return checks


def probe_inputs(imported: Imported, graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs that fit a graph: two prompts of five tokens, or what a module takes."""
    random = np.random.default_rng(seed)
    sizes = {"B": 2, "T": 5}
    probe: dict[str, np.ndarray] = {}
    for op in graph.inputs:
        names = {s for d in op.type.shape if not isinstance(d, int) for s in d.symbols}
        bound = op.type.bind({name: sizes.get(name, 3) for name in names})
        shape, dtype = static_shape(bound.shape), bound.dtype.numpy
        if dtype.kind == "b":
            probe[op.name] = random.integers(0, 2, shape) == 1
        elif dtype.kind in "iu":
            low, high = 0, imported.vocab_size or 8
            if op.name == "lengths":
                low, high = 1, probe["ids"].shape[1] + 1
            if dtype == np.uint8:
                low, high = 0, 256
            if op.name == POSITION and imported.context:
                low, high = 0, max(1, min(100, imported.context - sizes["T"]))
            probe[op.name] = np.asarray(random.integers(low, high, shape), dtype)
        else:
            probe[op.name] = np.asarray(random.normal(size=shape), dtype)
            if op.name in imported.positive:
                probe[op.name] = np.abs(probe[op.name])
        if len(shape) == 4 and POSITION in probe:  # behind the position a cache is empty
            for cache, known in zip(probe[op.name], probe[POSITION], strict=True):
                cache[:, known:] = 0
    return probe
