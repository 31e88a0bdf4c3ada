"""The blobs of a container below a prefix: each request to it that the modules above have in common.

How a blob is addressed and shown, how patiently it is asked for, and that etags are quoted in
conditions, is known here and nowhere above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import NotFound, Unreachable
from pipeline.storage.azure.errors import AGAIN, Changed, error_code
from pipeline.storage.azure.etags import Etag, etag_of
from pipeline.storage.azure.pulling import PullingWriter
from pipeline.storage.azure.reading import AzureReader
from pipeline.storage.azure.traffic import Traffic
from pipeline.storage.names import safe_name
from pipeline.storage.retry import TRIES

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, ContainerClient

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Container:
    """The blobs below `prefix`. tier: of what is written, None for the account's own."""

    sdk: ContainerClient
    prefix: str = ""
    tier: str | None = None
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def url(self) -> str:
        """The container's address, and the prefix; never a SAS."""
        return self.where("").rstrip("/")

    def where(self, name: str) -> str:
        """A blob, as people should see it in a message."""
        address = str(self.sdk.primary_endpoint).partition("?")[0].rstrip("/")
        return f"{address}/{self.full(name)}"

    def client(self, name: str) -> BlobClient:
        """The SDK's client of a blob. Raises UsageError for a name that leaves the prefix."""
        return self.sdk.get_blob_client(self.full(safe_name(name)))

    def full(self, name: str) -> str:
        """A blob's name from the container's root."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def ask(self, name: str, action: Callable[[], Result], *, tries: int = TRIES) -> Result:
        """The result of one request about a blob or a folder; see `Traffic.ask`."""
        return self.traffic.ask(self.where(name), action, tries=tries)

    def properties(self, name: str) -> Any | None:
        """What the SDK says of a blob; None if there is none. Raises NotFound without a container."""
        from azure.core.exceptions import ResourceNotFoundError

        client = self.client(name)

        def look() -> Any | None:
            try:
                return client.get_blob_properties()
            except ResourceNotFoundError as error:
                if error_code(error) == "ContainerNotFound":
                    raise
                return None

        return self.ask(name, look)

    def blobs(self, prefix: str, *, uncommitted: bool = False) -> Iterator[tuple[str, Any]]:
        """What the SDK says of the blobs that begin with `prefix`; if asked, also of the only staged."""
        start, include = self.full(prefix), ["uncommittedblobs"] if uncommitted else None
        token: str | None = None
        while True:  # page by page, so that only the one that the network spoiled is asked for again

            def ask(token: str | None = token) -> tuple[list[Any], str | None]:
                found = self.sdk.list_blobs(name_starts_with=start, include=include)
                pages = found.by_page(token)
                try:
                    return list(next(pages, [])), pages.continuation_token  # type: ignore[attr-defined]
                except (AttributeError, ValueError):  # the SDK's, when an answer is cut or spoiled
                    raise Unreachable("a list came spoiled", where=self.url, hint=AGAIN) from None

            blobs, token = self.traffic.ask(self.url, ask)
            for blob in blobs:
                yield blob.name[len(self.full("")) :], blob
            if not token:
                return

    def etags(self, prefix: str) -> dict[str, Etag]:
        """The etags of all blobs that begin with `prefix`, by what follows it in their names."""
        return {name[len(prefix) :]: etag_of(blob) for name, blob in self.blobs(prefix)}

    def reader(self, name: str, *, nbytes: int, etag: Etag) -> AzureReader:
        """A reader of the blob as it was when it had `etag`."""
        client, where = self.client(name), self.where(name)
        return AzureReader(client, where, nbytes=nbytes, etag=etag, traffic=self.traffic)

    def writer(
        self, name: str, size_hint: int, *, etag: Etag | None = None, overwrite: bool = False
    ) -> PullingWriter:
        """A writer of a blob; see `AzureWriter`."""
        return PullingWriter(
            self.client(name),
            self.where(name),
            size_hint=size_hint,
            etag=etag,
            traffic=self.traffic,
            tier=self.tier,
            overwrite=overwrite,
        )

    def remove(self, name: str, etag: Etag) -> None:
        """Delete the blob that has `etag`. Raises Changed if another is there; none is fine."""
        from azure.core import MatchConditions

        client, seen = self.client(name), MatchConditions.IfNotModified
        try:
            self.ask(name, lambda: client.delete_blob(etag=etag, match_condition=seen))
        except NotFound:
            return
        except Changed:
            if self.properties(name) is not None:  # else we did, and the answer was lost
                raise
