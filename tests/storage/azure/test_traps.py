"""The traps of Azure's SDK and protocol, each sprung on purpose: facts/azure.md has their numbers."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from azure.storage.blob import ContainerClient
from servers.azurite import Azurite
from servers.fault_proxy import Fault, FaultProxy
from storage.helpers import get, open_store, put

from pipeline.errors import AccessError, OutputExists, PipelineError, StorageError
from pipeline.storage import retry
from pipeline.storage.azure import client as azure_client
from pipeline.storage.azure.writing import COMMIT_KEY, MAX_BLOCKS
from pipeline.storage.base import Store

MIB = 1 << 20
DATA = random.Random(5).randbytes(MIB)


@pytest.fixture
def store(faults: FaultProxy, azurite: Azurite, container: ContainerClient) -> Store:
    url = f"{faults.url}/{container.container_name}"
    return open_store(url, AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key)


@pytest.fixture
def blob(container: ContainerClient, store: Store, faults: FaultProxy) -> bytes:
    """What "x" holds; the store has been used before."""
    container.upload_blob("x", DATA)
    store.stat("x")
    faults.clear()
    return DATA


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch, quick_retries: None) -> list[float]:
    """How long was waited between tries; it takes no time."""
    found: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(time=time.time, sleep=found.append))
    return found


def sent(faults: FaultProxy, method: str, part: str) -> int:
    return sum(hit.method == method and part in hit.target for hit in faults.log)


# -- 1: a range that is short and says so --------------------------------------------------------


def test_trap_1_a_short_but_consistent_range_is_completed(
    faults: FaultProxy, store: Store, blob: bytes
) -> None:
    faults.once("short", "GET", "/x", times=3)
    assert get(store, "x") == blob
    ranges = [hit.range for hit in faults.log if hit.range]
    assert len(ranges) == len(set(ranges)) == 4  # each asks for what the one before left out


# -- 2: answers that are lost --------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_trap_2_a_commit_whose_answer_was_lost_has_won(
    times: int, faults: FaultProxy, store: Store, container: ContainerClient
) -> None:
    faults.once("lost", "PUT", "comp=blocklist", times=times)
    put(store, "x", DATA)
    assert container.download_blob("x").readall() == DATA


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("PUT", "being-published$"),
        ("PUT", "comp=lease"),
        ("DELETE", "being-published$"),
        ("DELETE", "/model/old"),
        ("PUT", "config.json.*comp=blocklist"),
        ("PUT", "empty.*comp=blocklist"),
        ("PUT", "comp=block&"),
    ],
)
def test_trap_2_lost_answers_while_a_folder_is_published_do_no_harm(
    method: str, pattern: str, faults: FaultProxy, store: Store, container: ContainerClient
) -> None:
    container.upload_blob("model/old", b"old")
    files = {"weights": DATA, "empty": b"", "config.json": b"{}"}
    faults.once("lost", method, pattern)
    with store.create_folder("model", size_hint=1, overwrite=True) as folder:
        for name, data in files.items():
            folder.create(name, size_hint=len(data)).write(0, data)
        folder.publish(list(files))
    assert "lost" in {hit.fault for hit in faults.log}
    names = container.list_blob_names(name_starts_with="model/")
    assert {name: container.download_blob(name).readall() for name in names} == {
        f"model/{name}": data for name, data in files.items()
    }


# -- 3: the time that a body may take ------------------------------------------------------------


@pytest.fixture
def slow_link(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch, quick_retries: None
) -> Iterator[FaultProxy]:
    """A wire on which 8 MiB take twice as long as a silent peer is waited for."""
    monkeypatch.setattr(azure_client, "_TIMEOUT_S", 2)
    with FaultProxy(azurite.url, window=16 << 10) as proxy:
        proxy.rule = lambda method, target: Fault("slow", bytes_per_s=2 * MIB)
        yield proxy


def test_trap_3_a_block_may_take_longer_than_a_silent_peer_is_waited_for(
    slow_link: FaultProxy, azurite: Azurite, container: ContainerClient
) -> None:
    url = f"{slow_link.url}/{container.container_name}"
    data = bytes(8 * MIB)
    store = open_store(url, AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key)
    with store.create("x", size_hint=len(data), overwrite=False) as writer:
        writer.write(0, data)
        writer.commit()
    assert container.get_blob_client("x").get_blob_properties().size == len(data)
    assert sent(slow_link, "PUT", "comp=block&") == 1


# -- 4: what is tried again, and when ------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("as_date", [False, True])
@pytest.mark.parametrize(("method", "pattern"), [("GET", "/x"), ("HEAD", "/x"), ("PUT", "comp=block")])
def test_trap_4_retry_after_is_honoured(
    status: int, as_date: bool, method: str, pattern: str, faults: FaultProxy, store: Store,
    blob: bytes, sleeps: list[float],
) -> None:  # fmt: skip
    faults.once(Fault("status", status=status, retry_after=30, as_date=as_date), method, pattern)
    put(store, "y/x", DATA)
    assert get(store, "x") == blob
    assert len(sleeps) == 1
    assert 28 <= sleeps[0] <= 30


def test_trap_4_a_date_in_the_past_is_no_wait(
    faults: FaultProxy, store: Store, blob: bytes, sleeps: list[float]
) -> None:
    past = Fault("status", status=503, retry_after=-60, as_date=True)
    assert parsedate_to_datetime(past.retry_after_header or "")
    faults.once(past, "GET", "/x")
    assert get(store, "x") == blob
    assert max(sleeps) < 1


@pytest.mark.parametrize("fault", ["reset-request", "cut-request", "lost", 503])
def test_trap_4_a_body_is_sent_whole_again_and_never_empty(
    fault: Fault, faults: FaultProxy, store: Store, container: ContainerClient
) -> None:
    faults.once(fault, "PUT", "comp=block&", times=2)
    put(store, "x", DATA)
    assert container.download_blob("x").readall() == DATA


# -- 5: a range that breaks off ------------------------------------------------------------------


def test_trap_5_a_range_that_breaks_off_is_resumed_and_not_fetched_again(
    faults: FaultProxy, store: Store, container: ContainerClient
) -> None:
    data = random.Random(6).randbytes(6 * MIB)
    container.upload_blob("x", data)
    faults.once("cut", "GET", "/x")
    assert get(store, "x") == data
    first, second, *_ = (hit.range or "" for hit in faults.log if hit.range)
    assert first.startswith("bytes=0-")
    assert not second.startswith("bytes=0-")


@pytest.mark.parametrize("kind", ["cut", "reset", "lost"])
@pytest.mark.parametrize("at", [0.0, 0.4, 0.99])
def test_trap_5_a_list_that_breaks_off_is_asked_for_again(
    kind: Any, at: float, faults: FaultProxy, store: Store, container: ContainerClient
) -> None:
    names = sorted(f"a{number}" for number in range(10))
    for name in names:
        container.upload_blob(name, b"abc")
    faults.once(Fault(kind, at=at), "GET", "comp=list")
    assert [blob.name for blob in store.list("a")] == names
    assert sent(faults, "GET", "comp=list") == 2


# -- 6: everything is sent before it is refused --------------------------------------------------


def test_trap_6_a_name_that_is_taken_is_refused_before_a_byte_is_sent(
    faults: FaultProxy, store: Store, blob: bytes
) -> None:
    with pytest.raises(OutputExists):
        put(store, "x", DATA)
    assert {hit.method for hit in faults.log} == {"HEAD"}


# -- 7: blocks of others -------------------------------------------------------------------------


def test_trap_7_leftover_blocks_with_ids_of_another_length_are_named_with_their_remedy(
    store: Store, container: ContainerClient
) -> None:
    container.get_blob_client("x").stage_block(base64.b64encode(b"1").decode(), b"abc")
    with pytest.raises(StorageError) as error:
        put(store, "x", DATA)
    assert "cli.py clean" in str(error.value)
    assert "/x" in str(error.value)


@pytest.mark.parametrize("overwrite", [False, True])
def test_trap_7_a_commit_that_discards_anothers_blocks_mixes_nothing(
    overwrite: bool, store: Store, container: ContainerClient
) -> None:
    """Both have staged; the first commit takes the second's blocks away."""
    other = bytes(reversed(DATA))
    late = store.create("x", size_hint=MIB, overwrite=overwrite)
    late.write(MIB // 2, DATA[MIB // 2 :])
    put(store, "x", other, overwrite=overwrite)
    late.write(0, DATA[: MIB // 2])
    with pytest.raises(PipelineError) as error:
        late.commit()
    assert error.value.hint
    assert container.download_blob("x").readall() == other


def test_trap_7_a_commit_keeps_what_says_what_the_blob_is(
    store: Store, container: ContainerClient
) -> None:
    for data in (b"one", b"two"):
        put(store, "x", data, overwrite=True)
        found = container.get_blob_client("x").get_blob_properties()
        assert found.metadata[COMMIT_KEY]
        assert found.content_settings.content_type == "application/octet-stream"


# -- 8: limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [1, 140 << 30, 1 << 40, 5 << 40, 150 << 40])
def test_trap_8_a_blob_of_any_size_has_few_enough_blocks(nbytes: int, store: Store) -> None:
    with store.create("x", size_hint=nbytes, overwrite=False) as writer:
        assert nbytes <= writer.block_bytes * MAX_BLOCKS
        assert writer.block_bytes <= 4000 * MIB


# -- 9: one flipped bit --------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["comp=block&", "comp=blocklist"])
@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_trap_9_a_bit_flipped_on_the_way_up_is_sent_again(
    pattern: str, at: float, faults: FaultProxy, store: Store, container: ContainerClient
) -> None:
    faults.once(Fault("flip-request", at=at), "PUT", pattern)
    put(store, "x", DATA)
    assert container.download_blob("x").readall() == DATA


def test_trap_9_a_bit_flipped_on_the_way_down_is_noticed(
    faults: FaultProxy, store: Store, blob: bytes
) -> None:
    faults.once("flip", "GET", "/x")
    assert get(store, "x") == blob


# -- what changes meanwhile ----------------------------------------------------------------------


def test_a_blob_that_changes_between_ranges_is_never_read_as_a_mix(
    faults: FaultProxy, store: Store, container: ContainerClient
) -> None:
    data = random.Random(7).randbytes(20 * MIB)
    container.upload_blob("x", data)

    def change() -> None:
        container.upload_blob("x", data[::-1], overwrite=True)

    faults.once(Fault("before", action=change), "GET", "/x", nth=2)
    with pytest.raises(PipelineError, match="changed") as error:
        get(store, "x")
    assert error.value.hint


@pytest.mark.parametrize("status", [401, 403])
def test_access_that_ends_in_the_middle_is_one_clear_error_and_publishes_nothing(
    status: int, faults: FaultProxy, store: Store, container: ContainerClient
) -> None:
    faults.once(status, "PUT", "comp=blocklist", times=99)
    with pytest.raises(AccessError) as error:
        put(store, "x", DATA)
    assert error.value.hint
    assert "x" not in list(container.list_blob_names())
