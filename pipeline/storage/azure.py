"""An Azure Blob container as a store, through the real SDK: ranged reads, staged blocks, one commit.

A blob is written by Put Block (any order, ids derived from the offset) and appears by one conditional
Put Block List: `If-None-Match: *`, or `If-Match` on what was seen at the start when overwriting. A
random commit id in the blob's metadata tells our own success from another writer's when the answer to
the commit is lost. Ranges carry `If-Match` and their length is checked: the SDK lets short ones pass.
"""

from __future__ import annotations

import base64
import hashlib
import math
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import (
    AccessError,
    CorruptFile,
    NotFound,
    PipelineError,
    StorageError,
    UsageError,
)
from pipeline.settings import AzureSettings
from pipeline.storage.base import (
    Aborting,
    BlobInfo,
    Buffer,
    Extents,
    FolderWriter,
    Reader,
    Writer,
    exists,
)
from pipeline.storage.locations import Location, is_loopback
from pipeline.storage.names import safe_name
from pipeline.units import MIB

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, ContainerClient

BLOCK_BYTES = 8 * MIB
MAX_BLOCKS = 50_000
COMMIT_KEY = "paramdelta_commit"
_CONNECTIONS = 32
_TIMEOUT_S = 120  # a whole block must leave within this: 8 MiB at 1 Mbit/s takes 67 s
_RETRIES = 5


def connect(location: Location, settings: AzureSettings) -> ContainerClient:
    """A client for the container of `location`.

    The account is the URL's, else the environment's; the credential is the URL's SAS, else a
    connection string, key or SAS token from the environment, else the signed-in identity.
    Raises AccessError if no account is named, UsageError for plain HTTP to another machine.
    """
    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import ContainerClient

    options: dict[str, Any] = {
        "connection_timeout": _TIMEOUT_S,
        "read_timeout": _TIMEOUT_S,
        "retry_total": _RETRIES,
        "retry_connect": _RETRIES,
        "retry_read": _RETRIES,
        "retry_status": _RETRIES,
        "transport": RequestsTransport(session=_session(), session_owner=False),
    }
    assert location.container is not None
    if not location.account_url and settings.connection_string:
        try:
            return ContainerClient.from_connection_string(
                settings.connection_string, location.container, **_emulated(options, settings)
            )
        except ValueError as error:  # its text may quote the string: not passed on
            raise UsageError(
                "AZURE_STORAGE_CONNECTION_STRING is not a connection string",
                hint="copy it whole from the portal: AccountName=...;AccountKey=...",
            ) from error
    url = location.account_url or settings.account_url
    if url is None and settings.account_name:
        url = f"https://{settings.account_name}.blob.core.windows.net"
    if url is None:
        raise AccessError(
            "no storage account is named",
            where=str(location),
            hint="set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME, "
            "or write the location as https://ACCOUNT.blob.core.windows.net/container/path",
        )
    return ContainerClient(
        url,
        location.container,
        credential=_credential(url, location, settings),
        **_emulated(options, settings, url),
    )


def _emulated(
    options: dict[str, Any], settings: AzureSettings, url: str | None = None
) -> dict[str, Any]:
    """Azurite knows no newer protocol version than this; the SDK speaks a newer one by default."""
    text = url or settings.connection_string or ""
    local = any(mark in text for mark in ("//127.", "//localhost", "UseDevelopmentStorage=true"))
    return {**options, "api_version": "2026-06-06"} if local else options


def _session() -> Any:
    """A session whose pool keeps a connection for every worker."""
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    adapter = HTTPAdapter(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _credential(url: str, location: Location, settings: AzureSettings) -> Any:
    from azure.core.credentials import AzureSasCredential

    if sas := location.sas or settings.sas_token:
        return AzureSasCredential(sas.lstrip("?"))
    if settings.account_key:
        name = settings.account_name or _account_of(url)
        return {"account_name": name, "account_key": settings.account_key}
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _account_of(url: str) -> str:
    host, _, path = url.partition("://")[2].partition("/")
    return path if is_loopback(host.partition(":")[0]) else host.partition(".")[0]


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn what the SDK raises about `where` into our own errors, without its request's text."""
    from azure.core import exceptions as azure

    try:
        yield
    except PipelineError:
        raise
    except azure.ClientAuthenticationError as error:
        raise AccessError(
            f"credentials were refused ({_code(error)})",
            where=where,
            hint="check the account's key or SAS token, or sign in with `az login`",
        ) from error
    except azure.HttpResponseError as error:
        raise _explain_answer(error, where) from error
    except azure.AzureError as error:
        raise AccessError(
            f"the storage account does not answer ({type(error).__name__})",
            where=where,
            hint="check the account's name, the network and proxies, then run the command again",
        ) from error


def _code(error: Any) -> str:
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or getattr(error, "status_code", None) or "no answer")


def _explain_answer(error: Any, where: str) -> PipelineError:
    code = _code(error)
    match code, error.status_code:
        case "ContainerNotFound", _:
            hint = "create it: az storage container create --name NAME"
            return NotFound("there is no such container", where=where, hint=hint)
        case ("MemoryExtentStoreAtSizeLimit", _) | (_, 507):
            return StorageError("the store is full", where=where)
        case _, 404:
            return NotFound("no such blob", where=where)
        case _, 401 | 403:
            hint = "the identity needs the role Storage Blob Data Contributor, or a SAS with rwlc"
            return AccessError(f"access was refused ({code})", where=where, hint=hint)
        case _, 409 | 412:
            return StorageError(
                f"changed while it was in use ({code})", where=where, hint="run the command again"
            )
    return AccessError(
        f"the storage account answered {error.status_code} ({code})",
        where=where,
        hint="run the same command again later",
    )


class AzureReader:
    """Ranges of one blob as it was when it was opened."""

    is_remote = True

    def __init__(self, client: BlobClient, name: str) -> None:
        self.name = name
        self._client = client
        with explained(name):
            properties = client.get_blob_properties()
        self.nbytes = int(properties.size)
        self._etag = properties.etag

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; see `Reader.read_into`."""
        from azure.core import MatchConditions

        done = 0
        while done < len(buffer):
            with explained(self.name):
                stream = self._client.download_blob(
                    offset + done,
                    min(len(buffer) - done, BLOCK_BYTES),
                    etag=self._etag,
                    match_condition=MatchConditions.IfNotModified,
                    max_concurrency=1,
                )
                data = stream.readall()
            if not data or len(data) > len(buffer) - done:
                raise CorruptFile(
                    f"{len(data)} bytes came back at offset {offset + done}",
                    where=self.name,
                    hint="it may be truncated: check its size, then run the command again",
                )
            buffer[done : done + len(data)] = data
            done += len(data)

    def close(self) -> None:
        """Nothing to let go of: connections belong to the container's client."""


class AzureWriter(Aborting):
    """A blob whose blocks are staged, and which appears by one commit."""

    def __init__(self, client: BlobClient, name: str, *, size_hint: int, etag: str | None) -> None:
        self._client = client
        self._name = name
        self._etag = etag  # of the blob to be replaced; None if there must be none
        self._run = secrets.token_hex(4)
        self._extents = Extents()
        self._lock = threading.Lock()
        blocks_wanted = math.ceil(size_hint * 1.25 / (MAX_BLOCKS * BLOCK_BYTES))
        self.block_bytes = BLOCK_BYTES * max(1, blocks_wanted)

    def write(self, offset: int, data: Buffer) -> None:
        """Stage `data` as the block of `offset`; see `Writer.write`."""
        view = memoryview(data).cast("B")
        if not len(view):
            return
        with explained(self._name):
            # A digest that the service checks; sent by us, or it would compute a slower one.
            digest = bytearray(hashlib.md5(view, usedforsecurity=False).digest())
            self._client.stage_block(
                self._block_id(offset),
                view,  # type: ignore[arg-type]  # undocumented, but sent without a copy
                length=len(view),
                transactional_content_md5=digest,
            )
        with self._lock:
            self._extents.add(offset, len(view))

    def _block_id(self, offset: int) -> str:
        """One id per offset and run, all of one length, as the service demands."""
        return base64.b64encode(f"{self._run}-{offset:020d}".encode()).decode()

    def commit(self) -> None:
        """Publish the blob by one conditional Put Block List; see `Writer.commit`."""
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError, ResourceExistsError
        from azure.storage.blob import BlobBlock, ContentSettings

        blocks = [BlobBlock(self._block_id(at)) for at, _ in self._extents.ordered(where=self._name)]
        replacing = self._etag is not None
        commit_id = secrets.token_hex(16)
        condition = MatchConditions.IfNotModified if replacing else MatchConditions.IfMissing
        with explained(self._name):
            try:
                self._client.commit_block_list(
                    blocks,
                    etag=self._etag,
                    match_condition=condition,
                    metadata={COMMIT_KEY: commit_id},
                    content_settings=ContentSettings(content_type="application/octet-stream"),
                )
            except (ResourceExistsError, HttpResponseError) as error:
                if error.status_code not in (409, 412):
                    raise
                if self._found_commit() == commit_id:
                    return  # the answer to our own commit was lost, and the SDK asked again
                if replacing:
                    raise
                raise exists(self._name) from error

    def _found_commit(self) -> str | None:
        metadata: dict[str, str] = self._client.get_blob_properties().metadata or {}
        return metadata.get(COMMIT_KEY)

    def abort(self) -> None:
        """Nothing: uncommitted blocks are invisible, and the service collects them after a week."""


class AzureFolderWriter(Aborting):
    """A folder of blobs, staged one by one and committed together at the end."""

    def __init__(self, store: AzureStore, name: str, *, overwrite: bool) -> None:
        self._store = store
        self._prefix = name
        self._overwrite = overwrite
        self._writers: dict[str, _Staged] = {}

    def create(self, name: str, *, size_hint: int) -> Writer:
        """Start one blob of the folder; see `FolderWriter.create`."""
        path = f"{self._prefix}/{safe_name(name)}"
        writer = self._store.create(path, size_hint=size_hint, overwrite=self._overwrite)
        staged = _Staged(writer)
        self._writers[name] = staged
        return staged

    def publish(self, order: Sequence[str]) -> None:
        """Commit the blobs in `order`, whose last should be what readers look for first."""
        if set(order) != set(self._writers):
            raise ValueError("the order must name every file of the folder once")
        for name in order:
            self._writers[name].inner.commit()

    def abort(self) -> None:
        """Nothing: uncommitted blocks are invisible."""


class _Staged(Aborting):
    """A blob of a folder: its commit waits for the folder's `publish`."""

    def __init__(self, inner: Writer) -> None:
        self.inner = inner
        self.block_bytes = inner.block_bytes

    def write(self, offset: int, data: Buffer) -> None:
        """Stage a block."""
        self.inner.write(offset, data)

    def commit(self) -> None:
        """Nothing yet."""

    def abort(self) -> None:
        """Nothing: see `AzureWriter.abort`."""


class AzureStore:
    """The blobs of one container below `prefix`."""

    def __init__(self, container: ContainerClient, *, prefix: str = "") -> None:
        self._container = container
        self._prefix = f"{prefix}/" if prefix else ""
        account = str(container.primary_endpoint).partition("?")[0]
        self._address = account.rstrip("/")

    @property
    def url(self) -> str:
        """The container's address, and the prefix; never a SAS."""
        return f"{self._address}/{self._prefix}".rstrip("/")

    def stat(self, name: str) -> BlobInfo | None:
        """The blob called `name`, or None."""
        with explained(self._where(name)):
            found = self._properties(name)
        return BlobInfo(name, int(found.size)) if found else None

    def _properties(self, name: str) -> Any | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return self._client(name).get_blob_properties()
        except ResourceNotFoundError as error:
            if _code(error) == "ContainerNotFound":
                raise
            # A HEAD has no body, so the code may be missing: ask for the container itself.
            self._container.get_container_properties()
            return None

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """All blobs whose name begins with `prefix`, sorted by name."""
        with explained(self.url):
            for blob in self._container.list_blobs(name_starts_with=self._prefix + prefix):
                yield BlobInfo(blob.name[len(self._prefix) :], int(blob.size))

    def open(self, name: str) -> Reader:
        """Open a blob for reading. Raises NotFound."""
        return AzureReader(self._client(name), self._where(name))

    def create(self, name: str, *, size_hint: int, overwrite: bool) -> Writer:
        """Start a blob. Raises OutputExists before anything is sent."""
        with explained(self._where(name)):
            found = self._properties(name)
        if found and not overwrite:
            raise exists(self._where(name))
        etag = found.etag if found else None
        return AzureWriter(self._client(name), self._where(name), size_hint=size_hint, etag=etag)

    def create_folder(self, name: str, *, size_hint: int, overwrite: bool) -> FolderWriter:
        """Start a folder. Raises OutputExists if a blob lies below `name`."""
        if not overwrite and next(self.list(f"{safe_name(name)}/"), None):
            raise exists(self._where(name))
        return AzureFolderWriter(self, name, overwrite=overwrite)

    def _client(self, name: str) -> BlobClient:
        return self._container.get_blob_client(self._prefix + safe_name(name))

    def _where(self, name: str) -> str:
        return f"{self._address}/{self._prefix}{name}"
