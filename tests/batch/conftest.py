"""Fixtures of the tests that split steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch.clouds import write_family


@pytest.fixture(scope="session")
def large_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models large enough to be split; not to be changed."""
    return write_family(tmp_path_factory.mktemp("large"))
