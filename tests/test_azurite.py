"""What Azurite promises to the other tests, shown with the real SDK."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.storage.blob import BlobBlock, BlobClient, BlobServiceClient
from repository import fetch
from servers.azurite import Azurite, AzuriteError


def test_a_block_blob_comes_back_as_it_was_sent(azurite: Azurite) -> None:
    content = os.urandom(3 << 20)
    container = azurite.create_container()
    blob = container.get_blob_client("deltas/one.bin")
    blocks = ["0000", "0001", "0002"]
    for number, block in enumerate(blocks):
        blob.stage_block(block, content[number << 20 : (number + 1) << 20])
    blob.commit_block_list(
        [BlobBlock(block) for block in blocks],
        metadata={"sha256": hashlib.sha256(content).hexdigest()},
    )
    assert blob.download_blob().readall() == content
    assert blob.download_blob(offset=1 << 20, length=5).readall() == content[1 << 20 :][:5]
    properties = blob.get_blob_properties()
    assert properties.metadata == {"sha256": hashlib.sha256(content).hexdigest()}


def test_a_blob_that_must_be_new_conflicts_with_one_that_is_there(azurite: Azurite) -> None:
    container = azurite.create_container()
    container.upload_blob("once", b"first", if_none_match="*")
    with pytest.raises(ResourceExistsError) as error:
        container.upload_blob("once", b"second", if_none_match="*")
    assert error.value.error_code == "BlobAlreadyExists"  # type: ignore[attr-defined]
    assert container.download_blob("once").readall() == b"first"


def test_every_way_in_opens_the_same_account(azurite: Azurite) -> None:
    container = azurite.create_container()
    container.upload_blob("blob", b"content")
    name = container.container_name
    ways = [
        BlobServiceClient.from_connection_string(azurite.connection_string),
        BlobServiceClient(azurite.url, credential=AzureSasCredential(azurite.sas_token("rl"))),
        BlobServiceClient(f"{azurite.url}?{azurite.sas_token('rl')}"),
    ]
    for way in ways:
        assert way.get_blob_client(name, "blob").download_blob().readall() == b"content"
    assert azurite.client(name).download_blob("blob").readall() == b"content"


def test_a_sas_grants_its_permissions_and_no_more(azurite: Azurite) -> None:
    name = azurite.create_container().container_name
    blob = BlobClient(azurite.url, name, "blob", credential=AzureSasCredential(azurite.sas_token("r")))
    with pytest.raises(HttpResponseError) as error:
        blob.upload_blob(b"content")
    assert error.value.status_code == 403


def test_azurite_ends_with_the_process_that_started_it() -> None:
    program = (
        "import os, signal; from servers.azurite import Azurite\n"
        "print(Azurite().__enter__().url, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    url = result.stdout.strip()
    assert url.startswith("http://"), result.stderr
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            fetch(url)
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail("Azurite outlived its parent")


def test_a_missing_azurite_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURITE_HOME", str(tmp_path))
    with pytest.raises(AzuriteError, match="make setup"):
        Azurite().__enter__()
