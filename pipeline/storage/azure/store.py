"""An Azure Blob container as a store: its blobs below a prefix, listed, opened and written."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from pipeline.errors import NotFound
from pipeline.storage.azure import keeping
from pipeline.storage.azure.claim import CLAIM
from pipeline.storage.azure.container import Container
from pipeline.storage.azure.etags import Etag, etag_of
from pipeline.storage.azure.leftovers import find_leftovers
from pipeline.storage.azure.publishing import AzureFolderWriter
from pipeline.storage.base import BlobInfo, Files, FolderWriter, Leftover, Listed, Reader, Writer
from pipeline.storage.errors import exists
from pipeline.storage.names import safe_name, safe_prefix

_LISTS = 5  # of a folder that changes all the time, before it counts as being published


class AzureStore:
    """The blobs of a container."""

    def __init__(self, container: Container) -> None:
        self._container = container

    @property
    def url(self) -> str:
        """The container's address, and the prefix; never a SAS."""
        return self._container.url

    def stat(self, name: str) -> BlobInfo | None:
        """The blob called `name`, or None."""
        found = self._container.properties(name)
        return BlobInfo(name, int(found.size)) if found else None

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """All blobs whose name begins with `prefix`, sorted by name; see `Store.list`."""
        for name, blob in self._container.blobs(safe_prefix(prefix)):
            yield Listed(name, int(blob.size), etag_of(blob), blob.last_modified)

    def open(self, name: str) -> Reader:
        """Open a blob for reading. Raises NotFound."""
        found = self._container.ask(name, self._container.client(name).get_blob_properties)
        return self._container.reader(name, nbytes=int(found.size), etag=etag_of(found))

    def published(self) -> Files | None:
        """The blobs as one publishing left them: two lists with nothing changed between."""
        before: dict[str, Listed] = {}
        for _ in range(_LISTS):
            found = {blob.name: blob for blob in self.list()}
            if CLAIM in found:
                return None
            if found == before:
                return _Published(self, self._container, found)
            before = found
        return None

    def create(self, name: str, *, size_hint: int, overwrite: bool) -> Writer:
        """Start a blob. Raises OutputExists before anything is sent."""
        found = self._container.properties(name)
        if found and not overwrite:
            raise exists(self._container.where(name))
        etag = etag_of(found) if found else None
        return self._container.writer(name, size_hint, etag=etag, overwrite=overwrite)

    def has_folder(self, name: str) -> bool:
        """Whether a blob, or a folder that was published whole, has that name."""
        return bool(self.stat(name)) or _is_whole(self._container.etags(f"{safe_name(name)}/"))

    def create_folder(self, name: str, *, size_hint: int, overwrite: bool) -> FolderWriter:
        """Start a folder. Raises OutputExists if a blob, or a whole folder, has that name."""
        seen = self._container.etags(f"{safe_name(name)}/")
        if self.stat(name) or (_is_whole(seen) and not overwrite):
            raise exists(self._container.where(name))
        with suppress(NotFound):
            # Publishing deletes. Who may not shall know it now, by a name that is nobody's.
            nobodys = self._container.client(f"{name}/{CLAIM}-{secrets.token_hex(8)}")
            self._container.ask(name, nobodys.delete_blob)
        return AzureFolderWriter(self._container, name, overwrite=overwrite, seen=seen)

    def folder(self, name: str) -> AzureStore:
        """The store whose root is the folder `name`."""
        return AzureStore(replace(self._container, prefix=self._container.full(safe_name(name))))

    def delete(self, file: Listed) -> None:
        """Delete a blob as it was listed; see `Store.delete`."""
        self._container.remove(file.name, Etag(file.version))

    def delete_folder(self, name: str, files: Sequence[Listed]) -> None:
        """Delete a folder, which is claimed first; see `Store.delete_folder`."""
        etags = {file.name.removeprefix(f"{name}/"): Etag(file.version) for file in files}
        keeping.delete_folder(self._container, name, etags)

    def leftovers(self, prefix: str = "") -> Iterator[Leftover]:
        """Staged blocks, abandoned claims and old journals; see `Store.leftovers`."""
        yield from find_leftovers(self._container, safe_prefix(prefix))

    def clear(self, leftover: Leftover) -> None:
        """Remove a leftover; see `Store.clear`."""
        keeping.clear(self._container, leftover)


@dataclass(frozen=True, slots=True)
class _Published:
    """The blobs of a store as they were listed; to read any that has changed since is refused."""

    _store: AzureStore
    _container: Container
    _found: Mapping[str, Listed]

    @property
    def url(self) -> str:
        """The store's."""
        return self._store.url

    def stat(self, name: str) -> BlobInfo | None:
        """The blob called `name`, or None."""
        return self._found.get(safe_name(name))

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """All blobs whose name begins with `prefix`, sorted by name."""
        yield from (blob for name, blob in self._found.items() if name.startswith(prefix))

    def open(self, name: str) -> Reader:
        """Open a blob for reading. Raises NotFound."""
        found = self._found.get(name)
        if found is None:
            return self._store.open(name)  # which says what is wrong
        return self._container.reader(name, nbytes=found.nbytes, etag=Etag(found.version))


def _is_whole(etags: Mapping[str, Etag]) -> bool:
    """Whether these are the files of a folder that was published to the end."""
    return bool(etags) and CLAIM not in etags
