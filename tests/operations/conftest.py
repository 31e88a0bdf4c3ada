"""What the tests of operations share: a family of small models, and a place of one's own in Azurite."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from azure.storage.blob import ContainerClient
from models import State, cast, near, random_state, read_model, write_model
from servers.azurite import Azurite


@pytest.fixture(autouse=True)
def away_from_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No `.env` of whoever runs the tests is read."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@dataclass(frozen=True)
class Family:
    """Model folders, and the state of each: base, post-trained from it, and a later base."""

    folder: Path

    @property
    def base(self) -> str:
        return str(self.folder / "base")

    @property
    def post(self) -> str:
        return str(self.folder / "post")

    @property
    def new_base(self) -> str:
        return str(self.folder / "new-base")

    def state(self, name: str) -> State:
        return read_model(self.folder / name)

    def add(self, name: str, state: State, **config: object) -> str:
        return str(write_model(self.folder / name, state, **config))


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """A family in bfloat16."""
    made = Family(tmp_path)
    base = random_state(1)
    made.add("base", cast(base))
    made.add("post", cast(near(base, 2)))
    made.add("new-base", cast(near(base, 3, scale=1e-2)))
    return made


@dataclass(frozen=True)
class Cloud:
    """A container of Azurite that the environment names; `read` and `names` are the tests' own view."""

    client: ContainerClient
    location: str
    url: str

    def read(self, name: str) -> bytes:
        return self.client.download_blob(name).readall()

    def names(self, prefix: str = "") -> list[str]:
        return [blob.name for blob in self.client.list_blobs(prefix)]

    def upload(self, folder: Path, prefix: str) -> None:
        for path in folder.iterdir():
            self.client.upload_blob(f"{prefix}/{path.name}", path.read_bytes())

    def download(self, prefix: str, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name in self.names(f"{prefix}/"):
            (folder / Path(name).name).write_bytes(self.read(name))
        return folder


@pytest.fixture
def cloud(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A fresh container, reached by the environment's connection string."""
    client = azurite.create_container(f"test-{secrets.token_hex(8)}")
    name = str(client.container_name)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    return Cloud(client, f"az://{name}", f"{azurite.url}/{name}?{azurite.sas_token()}")


@pytest.fixture
def few_threads() -> Iterator[None]:
    """Small models are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Snapshot = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def snapshot() -> Snapshot:
    """The bytes of every file below a folder, hidden ones too."""

    def take(folder: Path) -> dict[str, bytes]:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    return take
