"""The folders on disk and the packages in pyproject.toml are the same.

A package that is missing from the list is silently not shipped; the links are what lets Python and
static tools find `mmc.ir` in a bare checkout.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("ir", "passes", "frontends", "targets")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]


def test_package_list_equals_the_folders() -> None:
    inits = [path for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")]
    found = {".".join(("mmc", *path.parent.relative_to(ROOT).parts)) for path in inits}
    own = {f"mmc.{path.parent.name}" for path in (ROOT / "mmc").glob("*/__init__.py")}
    assert sorted(SETUPTOOLS["packages"]) == sorted({"mmc"} | own | found)


def test_every_folder_with_code_is_a_package() -> None:
    """A forgotten __init__.py works in a checkout and is missing from the wheel."""
    holds_code = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert [folder for folder in holds_code if not (folder / "__init__.py").exists()] == []


def test_files_that_are_not_python_are_shipped() -> None:
    """A file that `package-data` does not name is silently missing from the wheel."""
    known = SETUPTOOLS["package-data"]
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix not in (".py", ".pyc") and path.is_file():
                home = next(p for p in path.parents if (p / "__init__.py").exists())
                package = ".".join(("mmc", *home.relative_to(ROOT).parts))
                shipped = {p for glob in known.get(package, ()) for p in home.glob(glob)}
                assert path in shipped, path


@pytest.mark.parametrize("folder", FOLDERS)
def test_link_and_package_dir(folder: str) -> None:
    link = ROOT / "mmc" / folder
    assert link.is_symlink()
    # Relative, or it would point into one person's checkout.
    assert os.readlink(link) == f"../{folder}"
    assert SETUPTOOLS["package-dir"][f"mmc.{folder}"] == folder
