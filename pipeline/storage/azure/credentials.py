"""Which Azure account is meant, and what opens it.

The account is the location's, else the environment's. What opens it is the location's SAS, else the
connection string, SAS token or key of the environment, else the signed-in identity. What the environment
holds is for the environment's account: a location in somebody else's config must not collect it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import AccessError, UsageError
from pipeline.redaction import know_sas
from pipeline.settings import AzureSettings
from pipeline.storage.azure.identity import signed_in, uses_github
from pipeline.storage.locations import Location, is_loopback

AZURE_HOSTS = (
    ".blob.core.windows.net",
    ".blob.storage.azure.net",
    ".blob.core.usgovcloudapi.net",
    ".blob.core.chinacloudapi.cn",
)
_STRING = "AZURE_STORAGE_CONNECTION_STRING"
_DEVELOPMENT = {  # Azurite's own account, published by Microsoft: not a secret
    "accountname": "devstoreaccount1",
    "accountkey": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/"
    "K1SZFPTOtr/KBHBeksoGMGw==",
    "blobendpoint": "http://127.0.0.1:10000/devstoreaccount1",
}


@dataclass(frozen=True, slots=True)
class Account:
    """An account's address, and what opens it: a key, a SAS, or with neither the signed-in identity."""

    url: str
    settings: AzureSettings
    name: str = ""
    key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)
    source: str = ""

    @property
    def is_emulated(self) -> bool:
        """Whether it is an emulator's on this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")

    @property
    def kind(self) -> str:
        """What opens it and where that was found, for people; never its value."""
        if self.sas or self.key:
            return f"{'a SAS' if self.sas else 'an account key'} from {self.source}"
        way = (
            "GitHub Actions OIDC" if uses_github(dict(self.settings.identity)) else "signed-in identity"
        )
        return f"the {way}"

    def credential(self) -> Any:
        """The SDK's object for it. A SAS is kept out of the client's address."""
        from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

        if self.sas:
            return AzureSasCredential(self.sas)
        if self.key:
            return AzureNamedKeyCredential(self.name, self.key)
        return signed_in(self.settings)


def find_account(location: Location, settings: AzureSettings) -> Account:
    """The account of `location`, and what opens it.

    Raises AccessError if no account is named or nothing is known to open it, UsageError for a connection
    string that is none and for plain HTTP to another machine.
    """
    if settings.connection_string and not location.sas:
        account = _by_connection_string(settings.connection_string, settings)
        if location.account_url in (None, account.url):
            return account
    url = location.account_url or settings.account_url
    if url is None and settings.account_name:
        url = f"https://{settings.account_name}.blob.core.windows.net"
    if url is None:
        raise AccessError(
            "no storage account is named",
            where=str(location),
            hint=f"set {_STRING}, or AZURE_STORAGE_ACCOUNT_NAME, "
            "or write the location as https://ACCOUNT.blob.core.windows.net/container/path",
        )
    require_https(url)
    return _opened(url, location, settings)


def require_https(url: str) -> None:
    """Raise UsageError unless `url` is HTTPS, or an emulator's on this machine."""
    parts = urlsplit(url)
    local = is_loopback(parts.hostname or "")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        raise UsageError(
            "credentials go by https only, but to an emulator on this machine",
            where=shown,
            hint="write the address with https://",
        )


def _by_connection_string(text: str, settings: AzureSettings) -> Account:
    """The account of a connection string. No error quotes any of it."""
    pairs = [part.partition("=") for part in text.strip().rstrip(";").split(";")]
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if fields.get("usedevelopmentstorage", "").lower() == "true":
        fields = _DEVELOPMENT
    name, suffix = fields.get("accountname", ""), fields.get("endpointsuffix", "core.windows.net")
    protocol = fields.get("defaultendpointsprotocol", "https")
    url = fields.get("blobendpoint") or (f"{protocol}://{name}.blob.{suffix}" if name else "")
    sas, key = fields.get("sharedaccesssignature"), fields.get("accountkey")
    if not url or not all(separator for _, separator, _ in pairs):
        raise UsageError(
            f"{_STRING} is not a connection string",
            hint="copy it whole from the portal: AccountName=...;AccountKey=...",
        )
    require_https(url)
    url, _, signature = url.partition("?")
    url, sas = url.rstrip("/"), (sas or signature).lstrip("?") or None
    know_sas(sas)
    name = name or account_of(url)
    # As the SDK has it, a key wins; a SAS beside it is for those who have no key.
    return Account(url, settings, name, key, None if key else sas, _STRING)


def _opened(url: str, location: Location, settings: AzureSettings) -> Account:
    ours = _is_ours(url, settings)
    name = account_of(url)
    if location.sas:
        know_sas(location.sas)
        return Account(url, settings, name, sas=location.sas.lstrip("?"), source="the address")
    if settings.sas_token and ours:
        sas = settings.sas_token.lstrip("?")
        return Account(url, settings, name, sas=sas, source="the environment")
    if settings.account_key and ours:
        name = settings.account_name or name  # a custom domain does not say it
        return Account(url, settings, name, key=settings.account_key, source="the environment")
    if not url.startswith("https://") or not (ours or _is_azure(url)):
        raise AccessError(
            "no credential is known for this account",
            where=url,
            hint="set AZURE_STORAGE_ACCOUNT_URL and AZURE_STORAGE_ACCOUNT_KEY (or _SAS_TOKEN) for it, "
            "or add a SAS to the address",
        )
    return Account(url, settings, name)


def _is_ours(url: str, settings: AzureSettings) -> bool:
    """Whether `url` is the account that the environment's credentials are for."""
    if settings.account_url:
        return url.rstrip("/") == settings.account_url.rstrip("/")
    host = urlsplit(url).hostname or ""
    known = _is_azure(url) or is_loopback(host)
    return known and settings.account_name in (None, account_of(url))


def _is_azure(url: str) -> bool:
    """Whether `url` is an account's address in one of Microsoft's clouds."""
    return (urlsplit(url).hostname or "").endswith(AZURE_HOSTS)


def account_of(url: str) -> str:
    """The name of the account at `url`."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.path.strip("/") if is_loopback(host) else host.partition(".")[0]
