"""An Azure Blob container as a store: its blobs below a prefix, listed, opened and written."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import NotFound, Unreachable
from pipeline.storage.azure import keeping
from pipeline.storage.azure.claim import CLAIM
from pipeline.storage.azure.copying import PullingWriter
from pipeline.storage.azure.errors import AGAIN, Changed, error_code
from pipeline.storage.azure.folder import AzureFolderWriter
from pipeline.storage.azure.leftovers import find_leftovers
from pipeline.storage.azure.reading import AzureReader
from pipeline.storage.azure.traffic import Traffic
from pipeline.storage.base import (
    BlobInfo,
    Files,
    FolderWriter,
    Leftover,
    Reader,
    Seen,
    Writer,
    exists,
)
from pipeline.storage.names import safe_name, safe_prefix

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, ContainerClient

Result = TypeVar("Result")

_LOOKS = 5


class AzureStore:
    """The blobs of one container below `prefix`. tier: of what is written, None for the default."""

    def __init__(self, container: ContainerClient, *, prefix: str = "", tier: str | None = None) -> None:
        self._container = container
        self._tier = tier
        self._traffic = Traffic()
        self._prefix = f"{prefix}/" if prefix else ""
        account = str(container.primary_endpoint).partition("?")[0]
        self._address = account.rstrip("/")

    @property
    def url(self) -> str:
        """The container's address, and the prefix; never a SAS."""
        return f"{self._address}/{self._prefix}".rstrip("/")

    def stat(self, name: str) -> BlobInfo | None:
        """The blob called `name`, or None."""
        safe_name(name)
        found = self._properties(name)
        return BlobInfo(name, int(found.size)) if found else None

    def _properties(self, name: str) -> Any | None:
        from azure.core.exceptions import ResourceNotFoundError

        client = self.client(name)

        def look() -> Any | None:
            try:
                return client.get_blob_properties()
            except ResourceNotFoundError as error:
                if error_code(error) == "ContainerNotFound":
                    raise
                return None

        return self._traffic.ask(self.where(name), look)

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """All blobs whose name begins with `prefix`, sorted by name."""
        for name, blob in self.blobs(safe_prefix(prefix)):
            yield BlobInfo(name, int(blob.size))

    def look(self, prefix: str = "") -> Iterator[Seen]:
        """The same, each with its version; see `Store.look`."""
        for name, blob in self.blobs(safe_prefix(prefix)):
            yield Seen(name, int(blob.size), _quoted(blob.etag), blob.last_modified)

    def blobs(self, prefix: str, *, uncommitted: bool = False) -> Iterator[tuple[str, Any]]:
        """What the SDK says of the blobs that begin with `prefix`; if asked, also of the only staged."""
        start, include = self._prefix + prefix, ["uncommittedblobs"] if uncommitted else None
        token: str | None = None
        while True:  # page by page, so that only the one that the network spoiled is asked for again

            def ask(token: str | None = token) -> tuple[list[Any], str | None]:
                found = self._container.list_blobs(name_starts_with=start, include=include)
                pages = found.by_page(token)
                try:
                    return list(next(pages, [])), pages.continuation_token  # type: ignore[attr-defined]
                except (AttributeError, ValueError):  # the SDK's, when an answer is cut or spoiled
                    raise Unreachable("a list came spoiled", where=self.url, hint=AGAIN) from None

            blobs, token = self._traffic.ask(self.url, ask)
            for blob in blobs:
                yield blob.name[len(self._prefix) :], blob
            if not token:
                return

    def ask(self, where: str, action: Callable[[], Result]) -> Result:
        """The result of one request about `where`; see `Traffic.ask`."""
        return self._traffic.ask(where, action)

    def versions(self, prefix: str) -> dict[str, str]:
        """The etags of all blobs that begin with `prefix`, by what follows it in their names."""
        return {name[len(prefix) :]: _quoted(blob.etag) for name, blob in self.blobs(prefix)}

    def open(self, name: str) -> Reader:
        """Open a blob for reading. Raises NotFound."""
        found = self._traffic.ask(self.where(name), self.client(name).get_blob_properties)
        return self.reader(name, nbytes=int(found.size), etag=found.etag)

    def reader(self, name: str, *, nbytes: int, etag: str) -> AzureReader:
        """A reader of the blob as it was when it had `etag`."""
        return AzureReader(
            self.client(name), self.where(name), nbytes=nbytes, etag=etag, traffic=self._traffic
        )

    def settled(self) -> Files | None:
        """The blobs as one publishing left them: two lists with nothing changed between."""
        before: dict[str, _Version] = {}
        for _ in range(_LOOKS):
            found = {
                name: _Version(name, int(blob.size), _quoted(blob.etag)) for name, blob in self.blobs("")
            }
            if CLAIM in found:
                return None
            if found == before:
                return _Settled(self, found)
            before = found
        return None

    def create(self, name: str, *, size_hint: int, overwrite: bool) -> Writer:
        """Start a blob. Raises OutputExists before anything is sent."""
        found = self._properties(name)
        if found and not overwrite:
            raise exists(self.where(name))
        return self._writer(name, size_hint, found.etag if found else None, overwrite=overwrite)

    def _writer(
        self, name: str, size_hint: int, etag: str | None, *, overwrite: bool = False
    ) -> PullingWriter:
        return PullingWriter(
            self.client(name),
            self.where(name),
            size_hint=size_hint,
            etag=etag,
            traffic=self._traffic,
            tier=self._tier,
            overwrite=overwrite,
        )

    def has_folder(self, name: str) -> bool:
        """Whether a blob, or a folder that was published whole, has that name."""
        return bool(self.stat(name)) or _is_whole(self.versions(f"{safe_name(name)}/"))

    def create_folder(self, name: str, *, size_hint: int, overwrite: bool) -> FolderWriter:
        """Start a folder. Raises OutputExists if a blob, or a whole folder, has that name."""
        seen = self.versions(f"{safe_name(name)}/")
        if self.stat(name) or (_is_whole(seen) and not overwrite):
            raise exists(self.where(name))
        with suppress(NotFound):
            # Publishing deletes. Who may not shall know it now, by a name that is nobody's.
            nobodys = self.client(f"{name}/{CLAIM}-{secrets.token_hex(8)}")
            self._traffic.ask(self.where(name), nobodys.delete_blob)
        return AzureFolderWriter(self, name, overwrite=overwrite, seen=seen)

    def stage(self, name: str, size_hint: int) -> PullingWriter:
        """A writer for one file of a folder, which says at its commit what it replaces."""
        return self._writer(name, size_hint, None)

    def remove(self, name: str, version: str) -> None:
        """Delete the blob whose etag is `version`. Raises Changed if another is there; none is fine."""
        from azure.core import MatchConditions

        client = self.client(name)
        seen = MatchConditions.IfNotModified
        try:
            self._traffic.ask(
                self.where(name), lambda: client.delete_blob(etag=version, match_condition=seen)
            )
        except NotFound:
            return
        except Changed:
            if self.stat(name) is not None:  # else we did, and the answer was lost
                raise

    def folder(self, name: str) -> AzureStore:
        """The store whose root is the folder `name`."""
        return AzureStore(self._container, prefix=self._prefix + safe_name(name), tier=self._tier)

    def delete(self, file: Seen) -> None:
        """Delete a blob as it was seen; see `Store.delete`."""
        self.remove(file.name, file.version)

    def delete_folder(self, name: str, files: Sequence[Seen]) -> None:
        """Delete a folder, which is claimed first; see `Store.delete_folder`."""
        etags = {file.name.removeprefix(f"{name}/"): file.version for file in files}
        keeping.delete_folder(self, name, etags)

    def leftovers(self, prefix: str = "") -> Iterator[Leftover]:
        """Staged blocks, abandoned claims and old journals; see `Store.leftovers`."""
        yield from find_leftovers(self, safe_prefix(prefix))

    def clear(self, leftover: Leftover) -> None:
        """Remove a leftover; see `Store.clear`."""
        keeping.clear(self, leftover)

    def client(self, name: str) -> BlobClient:
        """The SDK's client of a blob."""
        return self._container.get_blob_client(self._prefix + safe_name(name))

    def where(self, name: str) -> str:
        """A blob, as people should see it in a message."""
        return f"{self._address}/{self._prefix}{name}"


@dataclass(frozen=True, slots=True)
class _Version(BlobInfo):
    """A blob as it was listed."""

    etag: str


@dataclass(frozen=True, slots=True)
class _Settled:
    """The blobs of a store as they were listed; to read any that has changed since is refused."""

    _store: AzureStore
    _found: Mapping[str, _Version]

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
        return self._store.reader(name, nbytes=found.nbytes, etag=found.etag)


def _is_whole(versions: Mapping[str, str]) -> bool:
    """Whether these are the files of a folder that was published to the end."""
    return bool(versions) and CLAIM not in versions


def _quoted(etag: str) -> str:
    """An etag as conditions want it: lists have it bare."""
    return '"' + etag.strip('"') + '"'
