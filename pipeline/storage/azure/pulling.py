"""Blocks that the service copies by itself, from one blob of an account to another (Put Block From URL).

The account reads its own blob by a signature that is made for it and lives an hour, by the SAS that we
have, or by our identity's token. Each block carries the etag of the source as it was opened.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.storage.azure.errors import explained
from pipeline.storage.azure.identity import SCOPE
from pipeline.storage.azure.reading import AzureReader
from pipeline.storage.azure.writing import AzureWriter, block_id
from pipeline.storage.base import Reader, Staged

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient

_LIFETIME = timedelta(hours=1)


class PullingWriter(AzureWriter):
    """An `AzureWriter` that can also have its account fetch the bytes; see `Puller`."""

    _has_pulled = False

    def can_pull(self, reader: Reader) -> bool:
        """Whether `reader` reads from the same account; see `Puller`."""
        if not isinstance(reader, AzureReader):
            return False
        return _account(reader.client) == _account(self._client)

    def pull(self, offset: int, nbytes: int, reader: Reader) -> None:
        """Have one block copied; see `Puller.pull`. Raises Changed if the source is another by now.

        With no patience at first: what the service can't or may not do, the caller does.
        """
        assert isinstance(reader, AzureReader)
        source = reader
        digest = hashlib.md5(f"{source.name} {source.version}".encode(), usedforsecurity=False)
        block = Staged(offset, nbytes, block_id(offset, digest.digest()))

        def stage() -> None:
            url, authorization = _readable(source.client)
            self._client.stage_block_from_url(
                block.mark,
                url,
                source_offset=offset,
                source_length=nbytes,
                source_authorization=authorization,
                headers={"x-ms-source-if-match": source.version},  # which the SDK has no word for
            )

        if self.has(block):
            self.adopt(block)
            return
        if self._has_pulled:
            self._traffic.ask(self._name, stage)
        else:
            with explained(self._name):
                stage()
            self._has_pulled = True
        self._note(block)


def _account(client: BlobClient) -> tuple[str, str]:
    """Where the account is: host and port, and an emulator's path."""
    parts = urlsplit(str(client.primary_endpoint))
    return parts.netloc, parts.path.partition(f"/{client.container_name}/")[0]


def _readable(client: BlobClient) -> tuple[str, str | None]:
    """The blob's address, and what else the service needs to read it for us. Both are secrets."""
    from azure.core.credentials import AzureSasCredential
    from azure.storage.blob import BlobSasPermissions, generate_blob_sas

    credential: Any = client.credential
    url = str(client.url)
    if credential is None:
        return url, None  # a SAS is part of it already
    if isinstance(credential, AzureSasCredential):
        return f"{url}?{credential.signature}", None
    if hasattr(credential, "account_key"):
        signature = generate_blob_sas(
            str(client.account_name),
            client.container_name,
            client.blob_name,
            account_key=credential.account_key,
            permission=BlobSasPermissions(read=True),
            expiry=datetime.now(UTC) + _LIFETIME,
        )
        return f"{url}?{signature}", None
    return url, f"Bearer {credential.get_token(SCOPE).token}"
