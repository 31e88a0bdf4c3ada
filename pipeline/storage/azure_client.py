"""Reaching Azure Blob Storage: which account, which credential, and what its refusals mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import (
    AccessError,
    CorruptFile,
    NotFound,
    PipelineError,
    StorageError,
    Unreachable,
    UsageError,
)
from pipeline.settings import AzureSettings
from pipeline.storage.locations import Location, is_loopback

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

EMULATOR_API = "2026-06-06"  # Azurite knows no newer one; the SDK speaks a newer one by default
_CONNECTIONS = 32
_TIMEOUT_S = 120  # a whole block must leave within this: 8 MiB at 1 Mbit/s takes 67 s
_RETRIES = 3  # of the SDK, quick; `retried` has more patience where a run is under way
_FIRST_WAIT_S = 1


def connect(location: Location, settings: AzureSettings) -> ContainerClient:
    """A client for the container of `location`.

    The account is the URL's, else the environment's; the credential is the URL's SAS, else a
    connection string, key or SAS token from the environment, else the signed-in identity.
    Raises AccessError if no account is named, UsageError for plain HTTP to another machine.
    """
    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import ContainerClient, ExponentialRetry

    options: dict[str, Any] = {
        "connection_timeout": _TIMEOUT_S,
        "read_timeout": _TIMEOUT_S,
        "retry_policy": ExponentialRetry(_FIRST_WAIT_S, 2, retry_total=_RETRIES),
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
    """The options, with the protocol version that an emulator understands if this is one."""
    text = url or settings.connection_string or ""
    local = any(mark in text for mark in ("//127.", "//localhost", "UseDevelopmentStorage=true"))
    return {**options, "api_version": EMULATOR_API} if local else options


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
            f"credentials were refused ({error_code(error)})",
            where=where,
            hint="check the account's key or SAS token, or sign in with `az login`; "
            "AZURE_STORAGE_ACCOUNT_KEY and AZURE_STORAGE_SAS_TOKEN are read from the environment",
        ) from error
    except azure.HttpResponseError as error:
        raise _explain_answer(error, where) from error
    except azure.AzureError as error:
        raise Unreachable(
            f"the storage account does not answer ({type(error).__name__})",
            where=where,
            hint="check the account's name, the network and proxies, then run the command again",
        ) from error


def error_code(error: Any) -> str:
    """The service's own name for what went wrong, else the HTTP status."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or getattr(error, "status_code", None) or "no answer")


def _explain_answer(error: Any, where: str) -> PipelineError:
    code = error_code(error)
    match code, error.status_code:
        case "ContainerNotFound", _:
            hint = "create it: az storage container create --name NAME"
            return NotFound("there is no such container", where=where, hint=hint)
        case ("MemoryExtentStoreAtSizeLimit", _) | (_, 507):
            return StorageError("the store is full", where=where)
        case _, 416:
            return CorruptFile("ends before the bytes that were asked for", where=where)
        case _, 404:
            return NotFound("no such blob", where=where)
        case _, 401 | 403:
            hint = "the identity needs the role Storage Blob Data Contributor, or a SAS with rwlc"
            return AccessError(f"access was refused ({code})", where=where, hint=hint)
        case _, 409 | 412:
            return StorageError(
                f"changed while it was in use ({code})", where=where, hint="run the command again"
            )
    return Unreachable(
        f"the storage account answered {error.status_code} ({code})",
        where=where,
        hint="run the same command again later",
    )
