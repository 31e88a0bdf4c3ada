"""What killed runs leave is found and removed, and nothing of what lives or is whole."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import (
    BlobBlock,
    BlobLeaseClient,
    ContainerClient,
    ContentSettings,
    StandardBlobTier,
)
from servers.azurite import Azurite
from servers.fault_proxy import FaultProxy, Rule
from storage.helpers import MODEL, get, kinds, only, open_store, publish, put

from pipeline.errors import AccessError, StorageError
from pipeline.storage.azure import claim as azure_claim
from pipeline.storage.azure.claim import CLAIM
from pipeline.storage.base import Store


@pytest.fixture
def container(azurite: Azurite) -> ContainerClient:
    return azurite.create_container()


@pytest.fixture
def azure(azurite: Azurite, container: ContainerClient) -> Store:
    url = f"{azurite.url}/{container.container_name}"
    return open_store(url, AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key)


def stage(container: ContainerClient, name: str, *sizes: int, length: int = 10) -> list[BlobBlock]:
    """Blocks under `name` whose ids have `length` bytes."""
    blocks = []
    for number, size in enumerate(sizes):
        block = base64.b64encode(str(number).rjust(length, "0").encode()).decode()
        container.get_blob_client(name).stage_block(block, b"x" * size)
        blocks.append(BlobBlock(block))
    return blocks


# -- blocks that were never committed ---------------------------------------------------------


@pytest.mark.parametrize("length", [4, 40])
def test_blocks_with_ids_of_another_length_no_longer_hinder_an_upload(
    container: ContainerClient, azure: Store, length: int
) -> None:
    stage(container, "deltas/d", 3, 4, length=length)
    with pytest.raises(StorageError):
        put(azure, "deltas/d", b"content")
    found = only(azure)
    assert (found.name, found.kind, found.nbytes, found.modified) == ("deltas/d", "blocks", 7, None)
    azure.clear(found)
    assert list(azure.leftovers()) == []
    assert list(azure.list()) == []
    put(azure, "deltas/d", b"content")
    assert get(azure, "deltas/d") == b"content"


def test_blocks_under_a_blob_go_and_the_blob_stays_as_it_is(
    container: ContainerClient, azure: Store
) -> None:
    client = container.get_blob_client("d")
    settings = ContentSettings(content_type="text/x", cache_control="no-store", content_language="de")
    blocks = stage(container, "d", 3, 4)
    client.commit_block_list(
        blocks,
        metadata={"kind": "delta"},
        tags={"base": "v1"},
        content_settings=settings,
        standard_blob_tier=StandardBlobTier.COOL,
    )
    stage(container, "d", 5, length=10)
    found = only(azure)
    assert (found.kind, found.nbytes, found.stuck) == ("blocks", 5, None)
    azure.clear(found)
    assert list(azure.leftovers()) == []
    after = client.get_blob_properties()
    assert client.download_blob().readall() == b"x" * 7
    assert (after.metadata, client.get_blob_tags()) == ({"kind": "delta"}, {"base": "v1"})
    assert after.blob_tier == "Cool"
    for name in ("content_type", "cache_control", "content_language"):
        assert after.content_settings[name] == settings[name]


def test_blocks_under_a_blob_that_has_none_of_its_own_stay(
    container: ContainerClient, azure: Store
) -> None:
    container.upload_blob("d", b"put at once")
    stage(container, "d", 5)
    found = only(azure)
    assert found.stuck is not None
    with pytest.raises(StorageError):
        azure.clear(found)
    assert get(azure, "d") == b"put at once"


def test_blocks_that_have_grown_since_are_not_removed(container: ContainerClient, azure: Store) -> None:
    stage(container, "d", 5)
    found = only(azure)
    blocks = stage(container, "d", 5, 6)
    with pytest.raises(StorageError, match="changed"):
        azure.clear(found)
    container.get_blob_client("d").commit_block_list(blocks)
    assert len(get(azure, "d")) == 11


def test_a_journal_tells_the_age_of_blocks_and_goes_with_them(
    container: ContainerClient, azure: Store
) -> None:
    stage(container, "d", 5)
    container.upload_blob("d.journal", b"{}")
    container.upload_blob("old.journal", b"{}")
    found = {each.name: each for each in azure.leftovers()}
    assert {name: each.kind for name, each in found.items()} == {"d": "blocks", "old.journal": "journal"}
    written = container.get_blob_client("d.journal").get_blob_properties().last_modified
    assert found["d"].modified == written
    for each in found.values():
        azure.clear(each)
    assert list(container.list_blob_names()) == []
    assert list(azure.leftovers()) == []


def test_the_journal_of_a_folder_tells_the_age_of_all_that_was_staged_in_it(
    container: ContainerClient, azure: Store
) -> None:
    stage(container, "models/m/model-1.safetensors", 5)
    stage(container, "models/m/model-2.safetensors", 5)
    container.upload_blob("models/m.journal", b"{}")
    written = container.get_blob_client("models/m.journal").get_blob_properties().last_modified
    for prefix in ("", "models/m/"):
        found = list(azure.leftovers(prefix))
        assert [(each.kind, each.modified) for each in found] == [("blocks", written)] * 2
    for each in found:
        azure.clear(each)
    assert list(container.list_blob_names()) == [] == list(azure.leftovers())


def test_what_a_lease_holds_is_not_left_over(container: ContainerClient, azure: Store) -> None:
    put(azure, "d", b"content")
    stage(container, "d", 5)
    container.get_blob_client("d").acquire_lease()
    stage(container, "e", 5)
    container.upload_blob("e.journal", b"{}").acquire_lease()
    container.upload_blob("d.journal", b"{}")
    container.upload_blob(f"model/{CLAIM}", b"{}").acquire_lease()
    container.upload_blob("model.journal", b"{}")
    stage(container, "model/model.safetensors", 5)
    assert kinds(azure) == {}
    assert kinds(azure, "model/mod") == {}


def test_an_append_blob_is_let_alone(container: ContainerClient, azure: Store) -> None:
    container.upload_blob("log", b"text", blob_type="AppendBlob")
    assert kinds(azure) == {}


def refuse_from(number: int) -> Rule:
    """Answer 403 to the change of that number, and to all that follow."""
    seen = itertools.count(1)
    return lambda method, path: 403 if method in ("PUT", "DELETE") and next(seen) >= number else None


# -- folders ----------------------------------------------------------------------------------


def test_a_folder_whose_publishing_was_abandoned_goes_as_a_whole(
    container: ContainerClient, azure: Store
) -> None:
    publish(azure, "model", MODEL)
    publish(azure, "model-2", MODEL)
    note = {"run": "1", "host": "", "process": "", "names": ["other"]}
    container.upload_blob(f"model/{CLAIM}", json.dumps(note))
    stage(container, "model/other", 5)
    found = {each.name: each for each in azure.leftovers("model/")}
    assert {name: each.kind for name, each in found.items()} == {
        "model": "folder",
        "model/other": "blocks",
    }
    azure.clear(found["model"])
    assert [blob.name for blob in azure.list()] == sorted(f"model-2/{name}" for name in MODEL)
    # What the abandoned run might have committed after all, it can't commit any more.
    assert kinds(azure) == {}


def test_a_folder_that_another_run_has_taken_up_again_is_not_removed(
    container: ContainerClient, azure: Store
) -> None:
    publish(azure, "model", MODEL, overwrite=True)
    claim = container.upload_blob(f"model/{CLAIM}", b"{}")
    found = only(azure)
    claim.upload_blob(b"{} ", overwrite=True)
    with pytest.raises(StorageError, match="changed"):
        azure.clear(found)
    assert len(list(azure.list())) == len(MODEL) + 1


def test_a_folder_whose_deletion_was_stopped_anywhere_is_never_read_as_a_model(
    azurite: Azurite, container: ContainerClient, azure: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure_claim, "PATIENCE_S", 0.3)
    stopped = 0
    with FaultProxy(azurite.url) as wire:
        for number in itertools.count(1):
            publish(azure, "model", MODEL, overwrite=True)
            wire.rule = refuse_from(number)
            url = f"{wire.url}/{container.container_name}"
            store = open_store(url, AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key)
            try:
                store.delete_folder("model", list(store.list("model/")))
            except AccessError:
                stopped += 1
                left = {blob.name.removeprefix("model/") for blob in azure.list("model/")}
                assert azure.folder("model").published() is None or left == set(MODEL)
            else:
                break
            with contextlib.suppress(HttpResponseError):
                BlobLeaseClient(container.get_blob_client(f"model/{CLAIM}")).break_lease(0)
            azure.delete_folder("model", list(azure.list("model/")))
            assert list(azure.list()) == []
    assert stopped > len(MODEL)
