"""The artefact: a folder that holds a compiled model and everything that tells how it was made.

    manifest.json        format version, target, digests of every file, versions, facts
    graph.mmc            the final graph (graph-step.mmc: the same, for the last position)
    weights.safetensors  the packed weights
    lib/                 what the target built
    passes/              the graph after every pass, and passes.jsonl
    certificate.json     what `--check` compared
    report.html, tokenizer.json

The same model, options and versions give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmc.errors import MmcError
from mmc.ir.graph import Graph
from mmc.ir.ops.attention import CacheAppend
from mmc.ir.ops.source import Input, Weight
from mmc.ir.statistics import bind_all, statistics
from mmc.ir.tensors import Tensors
from mmc.ir.text import parse, render
from mmc.ir.types import DType, bind_dim, numel
from mmc.layers import Layer, Recurrence
from mmc.passes.check import PassCheck
from mmc.passes.manager import Step, write_dumps
from mmc.report import render_report
from mmc.targets.base import Target, graph_file
from mmc.targets.weights_file import write_weights

if TYPE_CHECKING:
    from mmc.driver import CompileOptions
    from mmc.frontends.base import Imported

FORMAT = 3
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """An artefact on disk."""

    path: Path
    manifest: Mapping[str, Any]

    def graph(self, which: str = "final") -> Graph:
        """The final graph, or the one "after:PASS" (the last time that the pass ran)."""
        if which == "final":
            return parse((self.path / "graph.mmc").read_text(), "graph.mmc")
        name = which.removeprefix("after:")
        dumps = sorted((self.path / "passes").glob("*-*.mmc"))
        dumps = [p for p in dumps if p.stem.partition("-")[2] == name]
        if not which.startswith("after:") or not dumps:
            raise MmcError(f"no graph {which!r}", str(self.path), 'ask for "final" or "after:PASS"')
        return parse(dumps[-1].read_text(), dumps[-1].name)


@dataclass(frozen=True)
class Contents:
    """Everything that goes into an artefact."""

    imported: Imported
    target: str
    entries: Mapping[str, Graph]
    steps: Sequence[Step]
    layers: Sequence[Layer]
    recurrences: Sequence[Recurrence]
    checks: Sequence[PassCheck]

    @property
    def fallbacks(self) -> list[str]:
        """The parts that run on a slow path: dense layers and scans that were kept."""
        dense = [layer.name for layer in self.layers if not layer.ternary]
        return dense + [found.name for found in self.recurrences if not found.linear]


def write_artifact(
    out: Path,
    contents: Contents,
    target: Target,
    tensors: Tensors,
    options: CompileOptions,
    progress: Callable[[str, float], None],
) -> Artifact:
    """Write everything into a temporary folder beside `out`, then put it in place."""
    weights = list(dict.fromkeys(w for graph in contents.entries.values() for w in graph.weights))
    with replaced_folder(out) as folder:
        write_dumps(folder / "passes", contents.imported.graph, contents.steps)
        for name, graph in contents.entries.items():
            (folder / graph_file(name)).write_text(render(graph))
        progress("weights", 0.5)
        write_weights(folder / "weights.safetensors", weights, tensors)
        progress("code", 0.6)
        built = target.build(
            contents.entries, tensors, folder, lambda name: progress(name, 0.7), options.build
        )
        if options.check:
            progress("check kernels", 0.95)
            _write_certificate(folder, contents, target, options)
        if contents.imported.tokenizer is not None:
            (folder / "tokenizer.json").write_bytes(contents.imported.tokenizer())
        manifest = _manifest(contents, weights, dict(built.facts))
        (folder / "report.html").write_text(render_report(manifest, contents))
        seal(folder, manifest)
        if options.dump_ir is not None:
            write_dumps(options.dump_ir, contents.imported.graph, contents.steps)
    return Artifact(out, manifest)


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, with the digests of all files."""
    manifest["files"] = _digests(folder)
    manifest["digest"] = _own_digest(manifest)
    _write_json(folder / MANIFEST, manifest)


def _manifest(
    contents: Contents, weights: Sequence[Weight], built: dict[str, Any]
) -> dict[str, Any]:
    imported = contents.imported
    return {
        "format": FORMAT,
        "kind": imported.kind,
        "target": contents.target,
        "entries": list(contents.entries),
        "versions": {name: version(name) for name in ("mmc-compiler", "numpy", "apache-tvm")},
        "vocab_size": imported.vocab_size,
        "eos_token_ids": list(imported.eos_token_ids),
        "max_positions": imported.max_positions,
        "context": imported.context,
        "sizes": _sizes(contents, weights),
        "layers": [asdict(layer) for layer in contents.layers],
        "recurrences": [asdict(found) for found in contents.recurrences],
        "fallbacks": contents.fallbacks,
        "substituted": [asdict(module) for module in imported.substituted],
        "built": built,
    }


def _kv_cache(contents: Contents) -> str | None:
    """In what the caches of attention hold numbers; None where there are none.

    Codes of 8 bits have a step beside them, in float32, in a cache of its own.
    """
    appended = [op.cache for op in contents.imported.graph if isinstance(op, CacheAppend)]
    names = {cache.name for cache in appended if isinstance(cache, Input)}
    held = {op.type.dtype for op in contents.entries["forward"].inputs if op.name in names}
    kinds = {DType.U8: "int8", DType.I16: "int16", DType.F32: "float32"}
    return next((kind for dtype, kind in kinds.items() if dtype in held), None)


def _sizes(contents: Contents, weights: Sequence[Weight]) -> dict[str, Any]:
    """Bytes and multiplications, counted from the final graph for one token of one sequence."""
    forward = contents.entries["forward"]
    counted = statistics(forward)
    packed = [w for w in weights if w.type.dtype.layout is not None]
    trits = sum(bind_all(numel(w.type.shape)) for w in packed)
    packed_bytes = sum(n for kind, n in counted.weight_bytes.items() if kind.startswith("ternary_"))
    states = [op.type for op in forward.inputs if op.name in forward.states]
    state_bytes = sum(_one_sequence(numel(t.shape)) * t.dtype.numpy.itemsize for t in states)
    return {
        "weight_bytes": dict(sorted(counted.weight_bytes.items())),
        "weight_bytes_total": sum(counted.weight_bytes.values()),
        "ternary_weights": trits,
        "bits_per_ternary_weight": round(8 * packed_bytes / trits, 4) if trits else None,
        "state_bytes_per_sequence": state_bytes,
        "kv_cache": _kv_cache(contents),
        "per_token": {
            "ternary_additions": counted.ternary_additions,
            "dense_multiplications": counted.dense_multiplications,
            "elementwise_multiplications": counted.elementwise_multiplications,
            "transcendental": counted.transcendental,
        },
    }


def _one_sequence(count: Any) -> int:
    return bind_all(bind_dim(count, {"B": 1, "T": 1}))


def _write_certificate(
    folder: Path, contents: Contents, target: Target, options: CompileOptions
) -> None:
    record = {
        "format": FORMAT,
        "passes": [check.record() for check in contents.checks],
        "target": target.check(folder, contents.entries, _probes(contents), options.build),
    }
    _write_json(folder / "certificate.json", record)


def _probes(contents: Contents) -> Mapping[str, Mapping[str, Any]]:
    from mmc.driver import probe_inputs

    return {
        name: probe_inputs(contents.imported, graph, seed=1)
        for name, graph in contents.entries.items()
    }


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {str(p.relative_to(folder)): _digest(p) for p in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_digest(manifest: Mapping[str, Any]) -> str:
    """The digest of a manifest, without the field that holds it."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def refuse_other_folder(out: Path, kind: str = "an artefact", mark: str = MANIFEST) -> None:
    """Raise MmcError where `out` is something that must not be replaced; `mark`: a file in it."""
    if out.exists() and not (out / mark).is_file():
        raise MmcError(f"exists and is not {kind}: left alone", str(out), "choose another -o")


@contextmanager
def replaced_folder(out: Path, kind: str = "an artefact", mark: str = MANIFEST) -> Generator[Path]:
    """A temporary folder that takes the place of `out` at the end, or vanishes on failure."""
    refuse_other_folder(out, kind, mark)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise MmcError(f"cannot be written: {error.strerror}", str(out)) from error
    try:
        folder.chmod(0o755)
        yield folder
        if out.exists():
            shutil.rmtree(out)
        os.replace(folder, out)
    except OSError as error:
        raise MmcError(f"cannot be written: {error.strerror}", str(out)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def open_artifact(path: Path) -> Artifact:
    """An artefact whose every byte is what was written; raise MmcError where it is not."""
    manifest = _read_manifest(path)
    if manifest.get("digest") != _own_digest(manifest):
        raise _changed(path / MANIFEST)
    for name, digest in manifest["files"].items():
        if not (path / name).is_file():
            raise MmcError("is missing", str(path / name), "compile again")
        if _digest(path / name) != digest:
            raise _changed(path / name)
    return Artifact(path, manifest)


def _changed(file: Path) -> MmcError:
    return MmcError("its bytes have changed since it was compiled", str(file), "compile again")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise MmcError(
            "is no artefact: it has no manifest.json", str(path), "make one with `mmc compile`"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise MmcError(
            f"its manifest cannot be read: {error}", str(path), "compile again"
        ) from None
    fields = cast(dict[str, Any], manifest) if isinstance(manifest, dict) else {}
    if fields.get("format") != FORMAT:
        found = fields.get("format", "none")
        raise MmcError(
            f"has format version {found}, this mmc reads {FORMAT}", str(path), "compile again"
        )
    return fields
