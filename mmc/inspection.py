"""`mmc inspect`: what a checkpoint or an artefact is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmc.artifact import MANIFEST, open_artifact
from mmc.driver import analyse
from mmc.ir.statistics import statistics
from mmc.report import in_bytes


def inspect_source(source: Path) -> dict[str, Any]:
    """Facts about a model directory (nothing is compiled) or an artefact (from its manifest)."""
    if (source / MANIFEST).is_file():
        manifest = open_artifact(source).manifest
        keys = ("kind", "target", "layers", "recurrences", "sizes", "built")
        return {"source": str(source), **{key: manifest[key] for key in keys}}
    from mmc.api import import_source

    done = analyse(import_source(source))
    counted = statistics(done.core)
    folded = [
        w.name for w in done.core.weights if w.name.endswith(".folded") or ".folded." in w.name
    ]
    return {
        "source": str(source),
        "kind": done.imported.kind,
        "layers": [asdict(layer) for layer in done.layers],
        "recurrences": [asdict(found) for found in done.recurrences],
        "folded": folded,
        "multiplications_per_token": {
            "dense": counted.dense_multiplications,
            "elementwise": counted.elementwise_multiplications,
            "replaced_by_additions": counted.ternary_additions,
        },
    }


def render_inspection(found: Mapping[str, Any]) -> str:
    """The facts as text."""
    layers: list[dict[str, Any]] = found["layers"]
    lines = [_layer(layer) for layer in layers]
    ternary = sum(layer["ternary"] for layer in layers)
    lines.append(
        f"{ternary} of {len(layers)} linear layers are ternary; "
        f"{len(layers) - ternary} dense MatMuls are left"
    )
    for r in found["recurrences"]:
        verdict = f"linear: {r['why']}" if r["linear"] else r["why"]
        lines.append(f"{r['name']:<40} recurrence, state {r['state']}: {verdict}")
    lines.append(f"{len(found['recurrences'])} recurrences")
    if "folded" in found:
        bounds = [name for name in found["folded"] if "lower_bounds" in name]
        lines.append(
            f"{len(found['folded'])} values folded into weights"
            + (f", {len(bounds)} of them lower_bounds" if bounds else "")
        )
        counts = found["multiplications_per_token"]
        lines.append(
            f"per token: {counts['replaced_by_additions']} multiply-adds became additions, "
            f"{counts['dense']} multiplications are left in MatMuls, "
            f"{counts['elementwise']} element-wise"
        )
    if "sizes" in found:
        lines += _sizes(found["sizes"])
    return "\n".join(lines)


def _layer(layer: Mapping[str, Any]) -> str:
    head = f"{layer['name']:<40} {layer['rows']:>6} x {layer['columns']:<6}"
    if not layer["ternary"]:
        return f"{head} dense: {layer['why']}"
    by = layer["quantiser"]
    how = (
        f", int8 range {by['range']:g} eps {by['eps']:g} {by['rounding']} per {by['granularity']}"
        if by
        else ""
    )
    scale = (
        "" if layer["scale"] is None else f" scale {layer['scale']:.5g} per {layer['granularity']},"
    )
    return f"{head} {weights_of(layer)},{scale} {layer['zeros']:.1%} zeros{how}"


def weights_of(layer: Mapping[str, Any]) -> str:
    """What the weights are; binary ones are ternary without a zero."""
    if not layer["ternary"]:
        return "dense"
    return "ternary" if layer["zeros"] else "binary"


def _sizes(sizes: Mapping[str, Any]) -> list[str]:
    kinds = ", ".join(f"{kind} {in_bytes(count)}" for kind, count in sizes["weight_bytes"].items())
    bits = sizes["bits_per_ternary_weight"]
    return [
        f"weights {in_bytes(sizes['weight_bytes_total'])}: {kinds}",
        f"{sizes['ternary_weights']} ternary weights at {bits} bits each"
        if bits
        else "no ternary weights",
        f"state {in_bytes(sizes['state_bytes_per_sequence'])} per sequence"
        + (f", caches in {kind}" if (kind := sizes.get("kv_cache")) else ""),
    ]
