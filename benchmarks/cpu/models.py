"""The models that are measured, made where they are not there yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[1]
MMC = str(Path(sys.executable).with_name("mmc"))

OPTIONS = {"2b-4t": ["--context", "1024"]}
"""How a shape is compiled."""

EMBEDDINGS: dict[str, tuple[str, ...]] = {"2b-4t": ("int8", "int4")}
"""Shapes whose head is their embedding, and in what they are compiled; the first is the usual."""


def checkpoint(build: Path, shape: str) -> Path:
    """Random weights of a shape, in the released layout."""
    folder = build / f"random-{shape}"
    if not (folder / "model.safetensors").is_file():
        make([sys.executable, SCRIPTS / "make_random_model.py", shape, folder])
    return folder


def artefact(
    build: Path, shape: str, weights: str, check: bool = False, embedding: str | None = None
) -> Path:
    """The shape compiled for the CPU in a layout of weights; with a certificate where checked."""
    usual = EMBEDDINGS.get(shape, (None,))[0]
    embedding = embedding or usual
    other = "" if embedding == usual else f"-{embedding}"
    folder = build / f"random-{shape}{other}-cpu-{weights}{'-checked' if check else ''}"
    options = ["--weights", weights, *(["--check"] if check else []), *OPTIONS.get(shape, [])]
    options += ["--embedding", embedding] if embedding else []
    return compiled(build, shape, folder, "cpu", options)


def reference(build: Path, shape: str) -> Path:
    """The shape for the interpreter."""
    return compiled(build, shape, build / f"random-{shape}-reference", "reference", [])


def compiled(build: Path, shape: str, folder: Path, target: str, options: list[str]) -> Path:
    """An artefact, made where it is not there yet."""
    if not folder.is_dir():
        make([MMC, "compile", checkpoint(build, shape), "-o", folder, "--target", target, *options])
    return folder


def gguf(build: Path, shape: str, kind: str, outer: str | None = None) -> Path:
    """The Llama of as many parameters, in a type of llama.cpp; outer: of embedding and output."""
    path = build / f"{'-'.join(filter(None, ('llama', shape, kind, outer)))}.gguf"
    if not path.is_file():
        build.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")  # a file that was not finished must not be taken for one
        command = [sys.executable, SCRIPTS / "make_llama_gguf.py", shape, kind, part]
        make([*command, *(["--outer", outer] if outer else [])])
        part.rename(path)
    return path


def make(command: list[str | Path]) -> None:
    """Run a command that makes a model; what it prints is not part of the tables."""
    words = list(map(str, command))
    print("making", words[-1] if "-o" not in words else words[words.index("-o") + 1],
          file=sys.stderr, flush=True)  # fmt: skip
    subprocess.run(words, check=True, stdout=sys.stderr)
