"""What containers promise when the wire spoils things, and when two runs want the same name."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading

import pytest
from azure.storage.blob import ContainerClient
from servers.azurite import Azurite
from servers.fault_proxy import FaultProxy
from storage.helpers import get, open_store, put

from pipeline.errors import PipelineError, StorageError
from pipeline.storage.base import Store


@pytest.fixture
def store(faults: FaultProxy, azurite: Azurite, container: ContainerClient) -> Store:
    url = f"{faults.url}/{container.container_name}"
    return open_store(url, AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key)


@pytest.mark.parametrize("fault", ["reset", "short", "lost", 500, 503, 429])
def test_a_spoiled_range_is_read_again(
    fault: str | int, faults: FaultProxy, store: Store, container: ContainerClient
) -> None:
    data = random.Random(3).randbytes(1 << 20)
    container.upload_blob("x", data)
    reader = store.open("x")
    faults.once(fault, "GET", "/x")
    buffer = bytearray(len(data) - 10)
    reader.read_into(10, memoryview(buffer))
    assert buffer == data[10:]
    assert [hit.method for hit in faults.log].count("GET") > 1


@pytest.mark.parametrize("fault", ["flip-request", "lost", 408, 500, 503, 429])
def test_a_spoiled_block_is_sent_again(
    fault: str | int, faults: FaultProxy, store: Store, container: ContainerClient
) -> None:
    data = random.Random(4).randbytes(1 << 20)
    faults.once(fault, "PUT", "comp=block&")
    put(store, "x", data)
    assert container.download_blob("x").readall() == data
    assert sum("comp=block&" in hit.target for hit in faults.log) == 3


@pytest.mark.parametrize("status", [400, 405, 411, 413])
def test_a_request_that_will_never_be_taken_is_not_sent_again(
    status: int, faults: FaultProxy, store: Store
) -> None:
    with store.create("x", size_hint=3, overwrite=False) as writer:
        faults.log.clear()
        faults.once(status, "PUT", "comp=block&", times=9)
        with pytest.raises(StorageError, match=str(status)) as error:
            writer.write(0, b"abc")
    assert error.value.hint
    assert len(faults.log) == 1


@pytest.mark.parametrize("fault", ["lost", 500, 503, 429])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_commit_whose_answer_was_lost_is_known_for_ours(
    fault: str | int, overwrite: bool, faults: FaultProxy, store: Store, container: ContainerClient
) -> None:
    if overwrite:
        container.upload_blob("x", b"old")
    faults.once(fault, "PUT", "comp=blocklist")
    put(store, "x", b"abcdef", overwrite=overwrite)
    assert container.download_blob("x").readall() == b"abcdef"


def test_a_refused_commit_is_not_taken_for_ours(faults: FaultProxy, store: Store) -> None:
    with store.create("x", size_hint=3, overwrite=False) as writer:
        writer.write(0, b"abc")
        put(store, "x", b"other")
        faults.once("lost", "PUT", "comp=blocklist")
        with pytest.raises(PipelineError, match="exists"):
            writer.commit()
    assert get(store, "x") == b"other"


def test_whoever_sees_the_last_file_of_a_folder_sees_all_of_it(store: Store, faults: FaultProxy) -> None:
    order = [f"model-{number:02d}" for number in range(12)] + ["config.json"]
    with store.create_folder("model", size_hint=1, overwrite=False) as folder:
        for name in order:
            folder.create(name, size_hint=1).write(0, b"x")
        folder.publish(order)
    commits = [h.target for h in faults.log if h.method == "PUT" and "comp=blocklist" in h.target]
    assert [path.partition("?")[0].rpartition("/")[2] for path in commits] == order


@pytest.mark.parametrize("commit", [1, 2, 3])
@pytest.mark.parametrize("overwrite", [False, True])
def test_two_runs_that_publish_at_the_same_time_do_not_mix(
    commit: int,
    overwrite: bool,
    faults: FaultProxy,
    store: Store,
    azurite: Azurite,
    container: ContainerClient,
) -> None:
    """One begins while the other is at that commit; what lies there in the end is one run's, whole."""
    other = open_store(
        f"{azurite.url}/{container.container_name}", AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key
    )
    contents = [
        {"model.safetensors": b"one", "tokenizer.json": b"one", "config.json": b"one"},
        {"model-1-of-1.safetensors": b"two", "tokenizer.json": b"two", "config.json": b"two"},
    ]
    folders = [s.create_folder("model", size_hint=1, overwrite=overwrite) for s in (store, other)]
    for folder, files in zip(folders, contents, strict=True):
        for name, data in files.items():
            folder.create(name, size_hint=3).write(0, data)
    published = [False, False]

    def publish(number: int) -> None:
        with contextlib.suppress(PipelineError):
            folders[number].publish(list(contents[number]))
            published[number] = True

    second = threading.Thread(target=publish, args=(1,))
    seen = itertools.count(1)

    def rule(method: str, path: str) -> None:
        if method == "PUT" and "comp=blocklist" in path and next(seen) == commit:
            second.start()
            second.join(timeout=0.3)

    faults.rule = rule
    publish(0)
    second.join()
    left = {blob.name.removeprefix("model/"): get(other, blob.name) for blob in other.list("model/")}
    assert left in contents
    assert published[contents.index(left)]
    assert overwrite or published.count(True) == 1
