"""Settings from the environment and `.env`, under the names that people already have.

`.env` in the current directory is read by python-dotenv; the real environment wins. Each Azure setting
is known by the name of the az command line and by that of adlfs and others; `.env.example` explains
them. Secrets are kept out of every `repr`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

DEFAULT_STORE = "./store"


@dataclass(frozen=True, slots=True)
class AzureSettings:
    """How to reach Azure Blob Storage. With no key, token or string, the signed-in identity is used."""

    connection_string: str | None = field(default=None, repr=False)
    account_name: str | None = None
    account_url: str | None = None  # without the signature that it may have had
    account_key: str | None = field(default=None, repr=False)
    sas_token: str | None = field(default=None, repr=False)
    container: str | None = None
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
    sign_password: str | None = field(default=None, repr=False)

    @classmethod
    def load(
        cls, *, store: str | None = None, tier: str | None = None, folder: Path | None = None
    ) -> Settings:
        """The settings in force: what is given, then the environment, then `.env` in `folder`."""
        dotenv = dotenv_values((folder or Path.cwd()) / ".env")
        return cls.from_mapping({**dotenv, **os.environ}, store=store, tier=tier)

    @classmethod
    def from_mapping(
        cls, env: Mapping[str, str | None], *, store: str | None = None, tier: str | None = None
    ) -> Settings:
        """The settings that the variables `env` make; an empty value counts as not set."""

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
            tier=tier,
        )
        in_azure = f"az://{azure.container}" if azure.names_an_account and azure.container else None
        return cls(
            azure=azure,
            store=store or first("PIPELINE_STORE") or in_azure or DEFAULT_STORE,
            fsync=first("PIPELINE_FSYNC") not in (None, "0", "false"),
            hub_token=first("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
            sign_password=first("PIPELINE_SIGN_PASSWORD"),
        )
