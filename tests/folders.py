"""Folders of a test run: one of each process, and one that its processes share."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

SHARED = "MMC_TESTS_FOLDER"
"""The environment variable that names the shared folder; `conftest` sets it."""


@cache
def workspace() -> Path:
    """A folder that lives as long as the process."""
    folder = Path(tempfile.mkdtemp(prefix="mmc-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def once(name: str, make: Callable[[Path], object]) -> Path:
    """What `make(path)` writes, in the shared folder; the first process that asks makes it."""
    path = Path(os.environ.get(SHARED) or workspace()) / name
    with path.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_name(f"{name}.part")
            make(part)
            part.rename(path)
    return path
