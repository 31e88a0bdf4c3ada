"""A container of Azurite, as tests look at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from azure.storage.blob import ContainerClient


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
