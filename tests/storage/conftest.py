"""The stores that every behaviour is shown on, each opened as a command would open it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from azure.storage.blob import ContainerClient, ExponentialRetry
from servers.azurite import Azurite
from servers.fault_proxy import Chances, Fault, FaultProxy
from servers.tokens import Tokens

from pipeline.settings import Settings
from pipeline.storage import retry
from pipeline.storage.azure import identity as azure_identity
from pipeline.storage.base import Store
from pipeline.storage.locations import parse_store
from pipeline.storage.opening import open_folder

OpenStore = Callable[[], Store]

KINDS = (
    "local",
    "local-fsync",
    "azure-connection-string",
    "azure-sas",
    "azure-https-signed-in",
    "azure-through-faults",
)
# What a wire may do at any time and a store must not show; one request in ten meets one of them.
PASSING = (
    *(Fault(kind) for kind in ("reset", "cut", "reset-request", "lost", "short", "flip-request")),
    *(Fault("status", status=status) for status in (408, 429, 500, 503)),
    Fault("status", status=500, code="OperationTimedOut"),
    Fault("status", status=503, retry_after=0),
)


@pytest.fixture(autouse=True)
def away_from_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No `.env` of whoever runs the tests is read."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(ExponentialRetry, "get_backoff_time", lambda self, settings: 0.01)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which take no time."""
    found: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", found.append)
    return found


@pytest.fixture
def faults(azurite: Azurite, quick_retries: None) -> Iterator[FaultProxy]:
    """A proxy in front of Azurite, which spoils nothing until it is told to."""
    with FaultProxy(azurite.url) as proxy:
        yield proxy


@pytest.fixture
def signed_in_env(tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a service principal with a secret."""
    monkeypatch.setattr(azure_identity, "_made", {})
    env = tokens.environment("secret", tmp_path)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


@pytest.fixture(params=KINDS)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens one fresh store, the same one each time, with connections of its own."""
    kind: str = request.param
    if kind.startswith("local"):
        text, env = str(tmp_path / "store"), {"PIPELINE_FSYNC": "1" if kind == "local-fsync" else "0"}
    elif kind == "azure-https-signed-in":
        secure: Azurite = request.getfixturevalue("secure")
        text = f"{secure.url}/{secure.create_container().container_name}/some/prefix"
        env = {**request.getfixturevalue("signed_in_env"), "AZURE_STORAGE_ACCOUNT_URL": secure.url}
    else:
        azurite: Azurite = request.getfixturevalue("azurite")
        name = azurite.create_container().container_name
        text = f"{azurite.url}/{name}/some/prefix"
        if kind == "azure-through-faults":
            faults: FaultProxy = request.getfixturevalue("faults")
            faults.chances = Chances(request.node.name, 0.1, PASSING)
            text = f"{faults.url}/{name}/some/prefix"
        if kind == "azure-connection-string":
            text = f"az://{name}/some/prefix"
            env = {"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string}
        elif kind == "azure-through-faults":
            env = {"AZURE_STORAGE_ACCOUNT_KEY": azurite.account_key}
        else:
            text, env = f"{text}?{azurite.sas_token()}", {}
    return lambda: open_folder(parse_store(text), Settings.from_mapping(env))


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """One fresh, empty store."""
    return open_store()


@pytest.fixture
def container(azurite: Azurite) -> ContainerClient:
    """A fresh container, as the tests themselves see it, with one blob in it."""
    client = azurite.create_container()
    client.upload_blob("blob", b"content")
    return client
