"""Fixtures that several test modules share; servers are real ones on loopback."""

from __future__ import annotations

import gc
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from clouds import Cloud
from forks import ROOT, Forks
from models import cast, random_state, write_model
from servers.azurite import Azurite
from servers.hub import HubServer
from servers.tokens import Certificate, Tokens

# Of the credentials, stores and Hubs of whoever runs the tests.
OURS = ("AZURE_", "PIPELINE_", "HF_", "HUGGING_FACE_", "ACTIONS_ID_TOKEN_", "IDENTITY_", "MSI_")

# Two hundred processes are started: none is to compile the modules that another one compiled.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Tests run side by side, on small models: each is quickest on one thread, its processes too.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# Imported packages are a million objects that stay; to look through them as often as usual takes a tenth
# of the time.
gc.set_threshold(50_000, 20, 100)

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Type checking, which takes longest, begins first: else one worker waits for it in the end."""
    items.sort(key=lambda item: item.path.name != "test_lint.py")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: some test always waits, for a server or for time to pass."""
    return (os.cpu_count() or 1) + 1


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


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Processes that need not be started from nothing; one folder was computed and applied already."""
    folder = tmp_path_factory.mktemp("forks")
    base = str(write_model(folder / "base", cast(random_state(1))))
    delta, out = str(folder / "delta"), str(folder / "out")
    warm_up = [
        ["compute", "--base", base, "--post", base, "--output", delta],
        ["apply", "--base", base, "--delta", delta, "--output", out],
    ]
    with Forks(folder, warm_up) as program:
        yield program


@pytest.fixture
def cli(forks: Forks, tmp_path: Path) -> Cli:
    """Run the command line in a process of its own, in `tmp_path`: `cli("compute", ..., env={})`."""

    def run(
        *arguments: str | Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        done = forks.run(*words, cwd=tmp_path, env={**os.environ, **(env or {})}, cap_s=120)
        assert done.code is not None, f"{words} did not end: {done.errors}"
        return subprocess.CompletedProcess(words, done.code, done.output, done.errors)

    return run


@pytest.fixture
def script(tmp_path: Path) -> Cli:
    """The same as `cli`, by a Python that is started for it, as a shell would."""

    def run(
        *arguments: str | Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
        env = {**os.environ, **(env or {})}
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
        )

    return run


@pytest.fixture
def cloud(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A fresh container, reached by the environment's connection string."""
    client = azurite.create_container(f"test-{secrets.token_hex(8)}")
    name = str(client.container_name)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    return Cloud(client, f"az://{name}", f"{azurite.url}/{name}?{azurite.sas_token()}")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Of the servers on this machine that speak HTTPS."""
    return Certificate.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def secure(certificate: Certificate) -> Iterator[Azurite]:
    """An Azurite that speaks HTTPS and takes access tokens."""
    with Azurite(tls=certificate) as server:
        yield server


@pytest.fixture
def tokens(certificate: Certificate) -> Iterator[Tokens]:
    """Where access tokens are given out."""
    with Tokens(certificate) as server:
        yield server
