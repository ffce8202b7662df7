"""`mmc import-report`: what was recognised in a model, by which evidence, and what was not and why.

value: the numbers of a matrix are a scale times {-1, 0, 1}.  algebra: a rewrite or a proof on the
graph.  class: the name of a module's class, for which an equivalent took its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmc.artifact import MANIFEST
from mmc.driver import Compilation, analyse
from mmc.errors import MmcError
from mmc.inspection import weights_of
from mmc.passes.base import Verdict

BY_VALUE = "find-ternary-linear"
BY_ALGEBRA = ("strip-ste", "find-activation-quantiser", "matmul-to-ternary", "find-recurrence")


def import_report(source: Path) -> dict[str, Any]:
    """Everything that was recognised and what was left, from the logs of the passes."""
    if (source / MANIFEST).is_file():
        raise MmcError("is an artefact, not a model", str(source), f"mmc inspect {source}")
    from mmc.api import import_source

    return report_of(analyse(import_source(source)))


def report_of(done: Compilation) -> dict[str, Any]:
    """The report of a model that has been analysed."""
    replaced = done.imported.substituted
    layers = [
        {
            **asdict(layer),
            "weights": weights_of(asdict(layer)),
            "evidence": [
                *(_because(done, BY_VALUE, layer.name) if layer.ternary else ()),
                *(e for name in BY_ALGEBRA[:3] for e in _because(done, name, layer.name)),
                *(
                    {"kind": "class", "pass": "substitution", "what": f"{r.was}: {r.declares}"}
                    for r in replaced
                    if layer.name == r.path
                ),
            ],
        }
        for layer in done.layers
    ]
    recurrences = [
        {**asdict(r), "evidence": list(_because(done, BY_ALGEBRA[3], r.name)) if r.linear else []}
        for r in done.recurrences
    ]
    return {
        "source": done.imported.source,
        "kind": done.imported.kind,
        "substituted": [asdict(r) for r in replaced],
        "layers": layers,
        "recurrences": recurrences,
        "left": list(_left(done)),
    }


def _verdicts(done: Compilation, name: str) -> Iterator[Verdict]:
    return (v for step in done.steps if step.name == name for v in step.log.verdicts)


def _because(done: Compilation, name: str, where: str) -> Iterator[dict[str, str]]:
    """What a pass fired for at a place, each reason once."""
    kind = "value" if name == BY_VALUE else "algebra"
    reasons = dict.fromkeys(v.why for v in _verdicts(done, name) if v.fired and v.where == where)
    return ({"kind": kind, "pass": name, "what": why} for why in reasons)


def _left(done: Compilation) -> Iterator[dict[str, str]]:
    """What looked like a quantiser, an estimator or a recurrence and was none, each once."""
    for name in BY_ALGEBRA[:2] + BY_ALGEBRA[3:]:
        for verdict in dict.fromkeys(v for v in _verdicts(done, name) if not v.fired):
            yield {"pass": name, "where": verdict.where, "why": verdict.why}


def render_import_report(report: Mapping[str, Any]) -> str:
    """The report as text: a line for each layer, its evidence below."""
    lines = [f"{report['source']} ({report['kind']})"]
    lines += [
        f"replaced {r['path'] or 'the model'}: {r['was']}, by an equivalent with {r['declares']}"
        for r in report["substituted"]
    ]
    for layer in report["layers"]:
        lines.append(
            f"{layer['name']:<40} {layer['rows']:>6} x {layer['columns']:<6} {_what(layer)}"
        )
        lines += _evidence(layer["evidence"])
    for found in report["recurrences"]:
        verdict = "linear" if found["linear"] else f"not linear: {found['why']}"
        lines.append(f"{found['name']:<40} recurrence, state {found['state']}: {verdict}")
        lines += _evidence(found["evidence"])
    lines += [f"left by {left['pass']}: {left['where']}: {left['why']}" for left in report["left"]]
    kinds = [layer["weights"] for layer in report["layers"]]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "none"
    linear = sum(found["linear"] for found in report["recurrences"])
    recurrent = f"{linear} of {len(report['recurrences'])} recurrences linear"
    return "\n".join([*lines, f"linear layers: {counts}; {recurrent}"])


def _what(layer: Mapping[str, Any]) -> str:
    if not layer["ternary"]:
        return f"dense: {layer['why']}"
    by = layer["quantiser"]
    if by is None:
        return f"{layer['weights']}, activations of integers"
    bounds = f"[{by['low']}, {by['high']}] of {by['range']:g}"
    activations = f"{bounds} per {by['granularity']}, eps {by['eps']:g}, {by['rounding']}"
    scale = (
        "" if layer["scale"] is None else f", scale {layer['scale']:.5g} per {layer['granularity']}"
    )
    return f"{layer['weights']}{scale}; activations {activations}"


def _evidence(found: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"    by {e['kind']:<8} {e['pass']}: {e['what']}" for e in found]
