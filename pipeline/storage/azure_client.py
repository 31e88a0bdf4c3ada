"""Reaching Azure Blob Storage: which account, and which credential."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.errors import AccessError, UsageError
from pipeline.settings import AzureSettings
from pipeline.storage.locations import Location, is_loopback

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

EMULATOR_API = "2026-06-06"  # Azurite knows no newer one; the SDK speaks a newer one by default
AZURE_HOSTS = (
    ".blob.core.windows.net",
    ".blob.storage.azure.net",
    ".blob.core.usgovcloudapi.net",
    ".blob.core.chinacloudapi.cn",
)
_CONNECTIONS = 32
_TIMEOUT_S = 120  # a whole block must leave within this: 8 MiB at 1 Mbit/s takes 67 s
_RECEIVED_BYTES = 256 * 1024  # at a time: 4 KiB, the default, takes ten times the processor time


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
        "retry_policy": ExponentialRetry(retry_total=0),  # `retried` has the patience
        "transport": RequestsTransport(
            session=_session(),
            session_owner=False,
            connection_timeout=_TIMEOUT_S,
            read_timeout=_TIMEOUT_S,
            connection_data_block_size=_RECEIVED_BYTES,
        ),
    }
    if settings.connection_string and not location.sas:
        client = _by_connection_string(location, settings.connection_string, options)
        if location.account_url in (None, str(client.url).partition("?")[0].rpartition("/")[0]):
            return client
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
    credential = _credential(url, location, settings)
    return ContainerClient(
        url, str(location.container), credential=credential, **_emulated(options, url)
    )


def _by_connection_string(location: Location, text: str, options: dict[str, Any]) -> ContainerClient:
    from azure.storage.blob import ContainerClient

    try:
        return ContainerClient.from_connection_string(
            text, str(location.container), **_emulated(options, text)
        )
    except ValueError as error:  # its text may quote the string: not passed on
        raise UsageError(
            "AZURE_STORAGE_CONNECTION_STRING is not a connection string",
            hint="copy it whole from the portal: AccountName=...;AccountKey=...",
        ) from error


def _emulated(options: dict[str, Any], address: str) -> dict[str, Any]:
    """The options, with the protocol version that an emulator understands if `address` is one's."""
    marks = ("//127.", "//localhost", "UseDevelopmentStorage=true")
    local = any(mark in address for mark in marks)
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
    """What opens the account at `url`.

    What the environment holds is for the environment's account: a location in somebody else's config
    must not collect it.
    """
    from azure.core.credentials import AzureSasCredential

    ours = _is_ours(url, settings)
    sas = location.sas or (settings.sas_token if ours else None)
    if sas:
        return AzureSasCredential(sas.lstrip("?"))
    if settings.account_key and ours:
        return {"account_name": _account_of(url), "account_key": settings.account_key}
    if not url.startswith("https://") or not (ours or _is_azure(url)):
        raise AccessError(
            "no credential is known for this account",
            where=url,
            hint="set AZURE_STORAGE_ACCOUNT_URL and AZURE_STORAGE_ACCOUNT_KEY (or _SAS_TOKEN) for it, "
            "or add a SAS to the address",
        )
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _is_ours(url: str, settings: AzureSettings) -> bool:
    """Whether `url` is the account that the environment's credentials are for."""
    if settings.account_url:
        return url.rstrip("/") == settings.account_url.rstrip("/")
    host = urlsplit(url).hostname or ""
    known = _is_azure(url) or is_loopback(host)
    return known and settings.account_name in (None, _account_of(url))


def _is_azure(url: str) -> bool:
    """Whether `url` is an account's address in one of Microsoft's clouds."""
    return (urlsplit(url).hostname or "").endswith(AZURE_HOSTS)


def _account_of(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.path.strip("/") if is_loopback(host) else host.partition(".")[0]
