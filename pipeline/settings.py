"""Settings from the environment and `.env`, under the names that people already have.

`.env` in the current directory is read by python-dotenv; the real environment wins. Each Azure setting
is known by the name of the az command line and by that of adlfs and others; `.env.example` explains
them. Secrets are kept out of every `repr`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from pipeline.cache import cache_folder
from pipeline.errors import UsageError
from pipeline.redaction import know, know_connection_string, know_sas

DEFAULT_STORE = "./store"
HubCache = Literal["auto", "on", "off"]

# What azure-identity and GitHub Actions say of who is signed in. None of it is ours to interpret.
_IDENTITY = (
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN",
    "AZURE_USERNAME",
    "AZURE_PASSWORD",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "AZURE_TOKEN_CREDENTIALS",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "MSI_ENDPOINT",
    "MSI_SECRET",
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
)
_SECRETS = (
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_KEY",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_PASSWORD",
    "IDENTITY_HEADER",
    "MSI_SECRET",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "PIPELINE_SIGN_PASSWORD",
)


@dataclass(frozen=True, slots=True)
class AzureSettings:
    """How to reach Azure Blob Storage. With no key, token or string, the signed-in identity is used.

    identity: the variables that say who is signed in, by name, sorted.
    """

    connection_string: str | None = field(default=None, repr=False)
    account_name: str | None = None
    account_url: str | None = None  # without the signature that it may have had
    account_key: str | None = field(default=None, repr=False)
    sas_token: str | None = field(default=None, repr=False)
    container: str | None = None
    identity: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tier: str | None = None  # of what is written; None for the account's own

    @property
    def names_an_account(self) -> bool:
        """Whether the environment says which account is meant."""
        return bool(self.connection_string or self.account_name or self.account_url)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that comes from the environment rather than from a command's options."""

    azure: AzureSettings = field(default_factory=AzureSettings)
    store: str = field(default=DEFAULT_STORE, repr=False)  # may carry a signature
    fsync: bool = False
    hub_token: str | None = field(default=None, repr=False)
    hub_cache: HubCache = "auto"
    sign_password: str | None = field(default=None, repr=False)
    log: str | None = None
    digest_cache: Path | None = None  # where digests of local weights are kept, if they are
    dequantize: bool = False  # whether 8-bit floats are read as what they mean, else refused

    @classmethod
    def load(
        cls,
        *,
        store: str | None = None,
        tier: str | None = None,
        hub_cache: str | None = None,
        digest_cache: str | None = None,
        dequantize: bool = False,
        folder: Path | None = None,
    ) -> Settings:
        """The settings in force: what is given, then the environment, then `.env` in `folder`."""
        env = {**_read_dotenv((folder or Path.cwd()) / ".env"), **os.environ}
        found = cls.from_mapping(
            env, store=store, tier=tier, hub_cache=hub_cache, digest_cache=digest_cache
        )
        return replace(found, dequantize=dequantize)

    @classmethod
    def from_mapping(
        cls,
        env: Mapping[str, str | None],
        *,
        store: str | None = None,
        tier: str | None = None,
        hub_cache: str | None = None,
        digest_cache: str | None = None,
    ) -> Settings:
        """The settings that the variables `env` make; an empty value counts as not set.

        Those that are secrets are known as such from here on, and redacted wherever they turn up.
        """

        def first(*names: str) -> str | None:
            return next((value for name in names if (value := env.get(name))), None)

        account_url, _, signature = (first("AZURE_STORAGE_ACCOUNT_URL") or "").partition("?")
        azure = AzureSettings(
            connection_string=first("AZURE_STORAGE_CONNECTION_STRING"),
            account_name=first("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"),
            account_url=account_url.rstrip("/") or None,
            account_key=first("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"),
            sas_token=first("AZURE_STORAGE_SAS_TOKEN") or signature or None,
            container=first("AZURE_STORAGE_CONTAINER_NAME"),
            identity=tuple((name, value) for name in sorted(_IDENTITY) if (value := first(name))),
            tier=tier,
        )
        know(*(env.get(name) for name in _SECRETS))
        know_sas(azure.sas_token, store, env.get("PIPELINE_STORE"))
        know_connection_string(azure.connection_string)
        in_azure = f"az://{azure.container}" if azure.names_an_account and azure.container else None
        return cls(
            azure=azure,
            store=store or first("PIPELINE_STORE") or in_azure or DEFAULT_STORE,
            fsync=first("PIPELINE_FSYNC") not in (None, "0", "false"),
            hub_token=first("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
            hub_cache=_parse_hub_cache(hub_cache or first("PIPELINE_HUB_CACHE") or "auto"),
            sign_password=first("PIPELINE_SIGN_PASSWORD"),
            log=first("PIPELINE_LOG"),
            digest_cache=_digest_cache(digest_cache or first("PIPELINE_DIGEST_CACHE") or "off"),
        )


def _read_dotenv(path: Path) -> dict[str, str | None]:
    if not path.exists():
        return {}  # as python-dotenv would say, whose import costs more than looking
    from dotenv import dotenv_values

    return dotenv_values(path)


def _parse_hub_cache(text: str) -> HubCache:
    for choice in get_args(HubCache):
        if text == choice:
            return choice  # type: ignore[no-any-return]
    raise UsageError(
        f"{text!r} is not a way to use the Hub's cache", hint="use auto, on or off (PIPELINE_HUB_CACHE)"
    )


def _digest_cache(text: str) -> Path | None:
    match text:
        case "off":
            return None
        case "on":
            return cache_folder("digests")
    return Path(text).expanduser()
