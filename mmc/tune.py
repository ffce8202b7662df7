"""Build an artefact again with what measures fastest on the machine that is here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from mmc.artifact import open_artifact, replaced_folder, seal
from mmc.driver import require_tunes
from mmc.targets.base import read_graphs
from mmc.targets.registry import load_target


def tune(out: Path, progress: Callable[[str, float], None] = lambda _, __: None) -> Sequence[str]:
    """Tune the artefact `out`, which stays as it is where that fails; a line for each choice."""
    artifact = open_artifact(out)
    manifest = dict(artifact.manifest)
    target = load_target(manifest["target"])
    require_tunes(target, str(out))
    graphs = read_graphs(out, manifest["entries"])
    with replaced_folder(out) as folder:
        shutil.copytree(out, folder, copy_function=_linked_or_copied, dirs_exist_ok=True)
        built, told = target.tune(folder, graphs, manifest["built"], progress)
        seal(folder, manifest | {"built": dict(built.facts)})
    return told


def _linked_or_copied(source: str, to: str) -> None:
    """The weights are large and never written again."""
    if source.endswith(".safetensors"):
        os.link(source, to)
    else:
        shutil.copyfile(source, to)
