"""What tests share: an option for golden files, how hypothesis searches, threads, the GPU."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache

import pytest
from hypothesis import settings

from tests.folders import SHARED

# One thread for each process that shares the tests: more of them would wait for one another, which
# takes torch twenty times as long.  Read when torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same cases on every run: a failure in CI is a failure at home.
settings.register_profile("mmc", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("mmc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the passes give into the golden files instead of comparing",
    )
    parser.addoption("--long", action="store_true", help="run what takes minutes, too")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@cache
def gpu_problem() -> str | None:
    """Why no kernel can run on a GPU here."""
    from mmc.targets.cuda import driver

    return driver.problem()


def pytest_configure(config: pytest.Config) -> None:
    """A folder that the processes of a test run share: those that share the tests inherit it.

    Without a GPU Triton's kernels are interpreted; its first import reads the variable.
    """
    if SHARED not in os.environ:
        os.environ[SHARED] = folder = tempfile.mkdtemp(prefix="mmc-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    if gpu_problem():
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs minutes or a GPU before any of its fixtures is made."""
    if item.get_closest_marker("long") and not item.config.getoption("--long"):
        pytest.skip("takes minutes: run it with --long")
    if item.get_closest_marker("gpu") and (why := gpu_problem()):
        pytest.skip(f"needs a GPU: {why}")
