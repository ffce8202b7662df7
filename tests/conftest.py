"""What tests share: the option that renews golden files, and how hypothesis searches."""

from __future__ import annotations

import pytest
from hypothesis import settings

# The same cases on every run: a failure in CI is a failure at home.
settings.register_profile("mmc", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("mmc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the passes give into the golden files instead of comparing",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
