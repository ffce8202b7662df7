"""What `mmc doctor` looks at: packages, the processor, the targets."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from mmc.targets.registry import TARGETS, load_target

PACKAGES = (
    "torch", "apache-tvm", "apache-tvm-ffi-orcjit", "onnx", "onnxruntime", "networkx", "numpy",
    "ml_dtypes", "safetensors", "tokenizers", "typer", "rich", "jinja2",
)  # fmt: skip


def diagnose() -> Iterator[str]:
    """One line for each finding: "ok", "missing" or a plain fact."""
    yield f"ok       Python {platform.python_version()} at {sys.executable}"
    for package in PACKAGES:
        try:
            yield f"ok       {package} {version(package)}"
        except PackageNotFoundError:
            yield f"missing  {package}: pip install {package}"
    yield f"ok       {platform.machine()}, {os.cpu_count()} CPUs"
    for name in TARGETS:
        target = load_target(name)
        problems = target.problems()
        here = f", {target.here()}" if not problems and target.here() else ""
        yield (
            f"ok       target {name}{here}"
            if not problems
            else f"missing  target {name}: {'; '.join(problems)}"
        )
