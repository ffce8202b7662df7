"""`mmc export`: an artefact in a form that other tools run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmc.artifact import open_artifact
from mmc.errors import MmcError
from mmc.ir.intern import own_world
from mmc.ir.ops.source import Weight
from mmc.ir.packing import unpack
from mmc.ir.types import static_shape
from mmc.targets.weights_file import WeightsFile

FORMATS = ("onnx",)


def export(out: Path, path: Path, format: str = "onnx") -> None:
    """Write the compiled model `out` to the file `path`.

    onnx: ternary layers are MatMulInteger, whose int32 sums are exact; onnxruntime runs it.
    """
    if format not in FORMATS:
        raise MmcError(f"no format {format!r}", "--format", f"one of {', '.join(FORMATS)}")
    from mmc.frontends.onnx_export import export_onnx

    with own_world():
        artifact = open_artifact(out)
        stored = WeightsFile.open(out / "weights.safetensors")
        graph = artifact.graph()
        tensors = {w.name: _unpacked(w, stored.array(w)) for w in graph.weights}
        ids = artifact.manifest["eos_token_ids"]
        facts = {"eos_token_ids": " ".join(map(str, ids))}
        export_onnx(graph, tensors, path, facts)


def _unpacked(weight: Weight, content: np.ndarray) -> np.ndarray:
    layout = weight.type.dtype.layout
    if layout is None:
        return content
    n, k = static_shape(weight.type.shape)
    return unpack(content, n, k, layout)
