"""The import rules: who may import whom, and where heavy packages may appear.

The rules are read off the source with `ast`, so code that no test runs is held to them as well.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("ir", "passes", "frontends", "targets")

# What each layer may import from MMC itself.  Modules directly in mmc/ may import everything.
MAY_IMPORT = {
    "mmc.ir": ("mmc.ir", "mmc.errors"),
    "mmc.passes": ("mmc.passes", "mmc.ir", "mmc.errors"),
    "mmc.frontends": ("mmc.frontends", "mmc.ir", "mmc.errors"),
    "mmc.targets": ("mmc.targets", "mmc.ir", "mmc.errors"),
    "mmc.errors": ("mmc.errors",),
}

# What these layers may import from outside, besides the standard library.
THIRD_PARTY = {
    "mmc.ir": {"numpy", "ml_dtypes", "networkx"},
    "mmc.passes": {"numpy", "networkx"},
    "mmc.errors": set[str](),
}

# Heavy packages and the modules (by prefix of their dotted name) that may import them.
OWNERS = {
    "torch": ("mmc.frontends.", "mmc.convert", "mmc.nn."),
    "triton": ("mmc.nn.recurrence_triton", "mmc.nn.bit_linear_triton"),
    "tvm": ("mmc.targets.",),
    "tvm_ffi": ("mmc.targets.",),
    "tvm_ffi_orcjit": ("mmc.targets.",),
    "cuda": ("mmc.targets.cuda.",),
    "onnx": ("mmc.frontends.onnx",),
    "onnx_ir": ("mmc.frontends.onnx",),
    "onnxscript": ("mmc.frontends.onnx",),
    "onnxruntime": ("mmc.frontends.onnx",),
    "gguf": ("mmc.frontends.gguf",),
    "sentencepiece": ("mmc.frontends.tokenizer",),
}

# Packages that an installation may lack: no module may need them to be imported.
OPTIONAL = {"cuda", "gguf", "sentencepiece"}


@dataclass(frozen=True)
class Import:
    """One imported name: `what` is dotted; `eager` says that importing the module runs it."""

    what: str
    line: int
    eager: bool


def module_name(path: Path) -> str:
    """Return the dotted name under which the file at `path` is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "mmc" else ("mmc", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# rglob is not asked to follow the links in mmc/: every file is met once, under its real folder.
FILES = {
    module_name(path): path
    for folder in ("mmc", *FOLDERS)
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.resolve() == path
}


def imports_of(module: str) -> list[Import]:
    """Return every import in `module`, also those in functions and under TYPE_CHECKING."""
    return list(_walk(module, ast.parse(FILES[module].read_text("utf-8")), eager=True))


def _walk(module: str, node: ast.AST, *, eager: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, eager) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(module, node)
        # `from mmc.ir import graph` imports the module mmc.ir.graph; other names are not modules.
        for alias in node.names:
            dotted = f"{base}.{alias.name}"
            yield Import(dotted if dotted in FILES else base, node.lineno, eager)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.body:
            yield from _walk(module, child, eager=False)
        for child in node.orelse:
            yield from _walk(module, child, eager=eager)
    else:
        inside = eager and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from _walk(module, child, eager=inside)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    is_package = FILES[module].name == "__init__.py"
    package = module.split(".")[: None if is_package else -1]
    base = package[: len(package) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


def within(name: str, package: str) -> bool:
    """Say whether `name` is `package` or lies inside it."""
    return name == package or name.startswith(package + ".")


def violations(module: str) -> Iterator[str]:
    """Describe every import of `module` that breaks a rule."""
    layer = next((layer for layer in MAY_IMPORT if within(module, layer)), None)
    for found in imports_of(module):
        top = found.what.split(".")[0]
        where = f"{FILES[module].relative_to(ROOT)}:{found.line} imports {found.what}"
        if top in FOLDERS:
            yield f"{where}: say mmc.{top}"
        elif top == "mmc":
            if layer and not any(within(found.what, allowed) for allowed in MAY_IMPORT[layer]):
                yield f"{where}: {layer} may import only {', '.join(MAY_IMPORT[layer])}"
        elif top in sys.stdlib_module_names:
            continue
        elif layer in THIRD_PARTY and top not in THIRD_PARTY[layer]:
            yield f"{where}: {layer} may import only {sorted(THIRD_PARTY[layer])} from outside"
        elif top in OWNERS and not (module + ".").startswith(OWNERS[top]):
            yield f"{where}: only {', '.join(OWNERS[top])} may"
        elif top in OPTIONAL and found.eager:
            yield f"{where}: import it where it is used, it may not be installed"


@pytest.mark.parametrize("module", FILES)
def test_imports_keep_to_the_rules(module: str) -> None:
    assert list(violations(module)) == []


def test_no_import_cycles() -> None:
    """What a module imports while it is being imported must not lead back to it."""
    graph = {
        module: {found.what for found in imports_of(module) if found.eager and found.what in FILES}
        for module in FILES
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        # The sorter lists importers after what they import: turned round, each imports the next.
        pytest.fail("import cycle: " + " -> ".join(reversed(error.args[1])))


def test_import_mmc_loads_only_the_standard_library() -> None:
    """`import mmc` must stay quick: numpy, typer, torch, ... are imported where they are used."""
    script = (
        "import sys; before = set(sys.modules); import mmc; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "mmc" in loaded
    assert loaded - sys.stdlib_module_names == {"mmc"}
