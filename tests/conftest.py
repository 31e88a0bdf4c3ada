"""Fixtures that several test modules share; servers are real ones on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.azurite import Azurite
from servers.hub import HubServer

ROOT = Path(__file__).resolve().parent.parent

# Of the credentials, stores and Hubs of whoever runs the tests.
OURS = ("AZURE_", "PIPELINE_", "HF_", "HUGGING_FACE_", "ACTIONS_ID_TOKEN_", "IDENTITY_", "MSI_")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the credentials, the store or the Hub of whoever runs it."""
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """The one Azurite of the test session. Give every test a container of its own."""
    with Azurite() as server:
        yield server


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A server that speaks the Hub's protocol, empty."""
    with HubServer() as server:
        yield server


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the command line in a process of its own, in `tmp_path`: `cli("compute", ..., env={})`."""

    def run(
        *arguments: str | Path, env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
