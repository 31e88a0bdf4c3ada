"""A client of the Azure SDK for the container of a location, tuned for runs of hours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.settings import AzureSettings
from pipeline.storage.azure.credentials import find_account
from pipeline.storage.azure.traffic import MOST_REQUESTS
from pipeline.storage.locations import Location

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

EMULATOR_API = "2026-06-06"  # Azurite knows no newer one; the SDK speaks a newer one by default
_TIMEOUT_S = 40  # without a byte either way
_SENT_BYTES = 256 * 1024  # at a time
_RECEIVED_BYTES = 256 * 1024  # at a time: 4 KiB, the default, takes ten times the processor time


def connect(location: Location, settings: AzureSettings) -> ContainerClient:
    """A client for the container of `location`; see `credentials` for what opens it.

    Raises AccessError if no account is named or nothing opens it, UsageError for plain HTTP to another
    machine.
    """
    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import ContainerClient, ExponentialRetry

    account = find_account(location, settings)
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
    if account.is_emulated:
        options["api_version"] = EMULATOR_API
    return ContainerClient(
        account.url, str(location.container), credential=account.credential(), **options
    )


def _session() -> Any:
    """A session whose pool keeps a connection for every request under way."""
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    adapter = HTTPAdapter()
    adapter.init_poolmanager(MOST_REQUESTS, MOST_REQUESTS, blocksize=_SENT_BYTES)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session
