"""The local Hub that these tests ask by the real client, and a model on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.hub import HubServer
from storage.hub.helpers import REPO, large

from pipeline.storage import retry


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.01)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def client(hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, pointed at the local Hub."""
    hub.patch_client(monkeypatch, home)


@pytest.fixture
def source(hub: HubServer, client: None, tmp_path: Path) -> Path:
    """A model of 2 MiB on a Hub that has the bytes itself."""
    folder = large(tmp_path / "source")
    hub.add_repo(REPO, folder)
    return folder


@pytest.fixture
def cdn(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The same model, for one token, on a Hub that sends clients to another host for it."""
    with HubServer(cdn=True) as server:
        server.patch_client(monkeypatch, home)
        server.add_repo(REPO, large(tmp_path / "cdn-source"), private=True, token="token-canary")
        monkeypatch.setenv("HF_TOKEN", "token-canary")
        yield server
