"""What publishing a folder of blobs promises: two runs never mix, readers see all of one or nothing."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobLeaseClient, ContainerClient, ExponentialRetry
from servers.azurite import Azurite
from servers.fault_proxy import FaultProxy
from storage.helpers import open_store

from pipeline.errors import AccessError, OutputExists, PipelineError
from pipeline.storage import retry
from pipeline.storage.azure import claim as azure_claim
from pipeline.storage.azure.claim import CLAIM
from pipeline.storage.base import FolderWriter, Store

Files = dict[str, bytes]

ONE = {"empty": b"", "config.json": b"one"}
TWO = {"model-1.safetensors": b"two", "config.json": b"two"}
# Of blocks that are staged at once, under the same names: the one's commit discards the other's.
LARGE_ONE = {"model.safetensors": b"1" * (2 << 20), "config.json": b"one"}
LARGE_TWO = {"model.safetensors": b"2" * (2 << 20), "config.json": b"two"}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(azure_claim, "PATIENCE_S", 0.3)
    monkeypatch.setattr(azure_claim, "_LOOK_S", 0.05)
    monkeypatch.setattr(ExponentialRetry, "get_backoff_time", lambda self, settings: 0.01)


@pytest.fixture
def wires(azurite: Azurite, impatient: None) -> Iterator[list[FaultProxy]]:
    """Two ways to the service, each with faults of its own."""
    with FaultProxy(azurite.url) as first, FaultProxy(azurite.url) as second:
        yield [first, second]


Open = Callable[..., Store]


@pytest.fixture
def reach(azurite: Azurite, container: ContainerClient) -> Open:
    """Opens the store `model N` lies in, directly or through a wire."""
    key = azurite.account_key

    def opened(wire: FaultProxy | None = None) -> Store:
        url = f"{wire.url if wire else azurite.url}/{container.container_name}"
        return open_store(url, AZURE_STORAGE_ACCOUNT_KEY=key)

    return opened


@pytest.fixture
def settled(azurite: Azurite, container: ContainerClient) -> Callable[[str], bool]:
    """Whether the folder of that name can be read as a model."""

    def look(name: str) -> bool:
        url = f"{azurite.url}/{container.container_name}/{name}"
        return open_store(url, AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key).published() is not None

    return look


def begin(store: Store, name: str, files: Files, *, overwrite: bool = True) -> FolderWriter:
    folder = store.create_folder(name, size_hint=1, overwrite=overwrite)
    for file, data in files.items():
        with folder.create(file, size_hint=len(data)) as writer:
            half = len(data) // 2
            writer.write(half, data[half:])
            writer.write(0, data[:half])
            writer.commit()
    return folder


def publish(store: Store, name: str, files: Files, *, overwrite: bool = True) -> None:
    begin(store, name, files, overwrite=overwrite).publish(list(files))


def content(container: ContainerClient, name: str) -> Files:
    return {
        blob.removeprefix(f"{name}/"): container.download_blob(blob).readall()
        for blob in container.list_blob_names(name_starts_with=f"{name}/")
    }


def break_lease(container: ContainerClient, name: str) -> None:
    """Let the time run out that a silent run is waited for."""
    with contextlib.suppress(HttpResponseError):
        BlobLeaseClient(container.get_blob_client(f"{name}/{CLAIM}")).break_lease(0)


def changes(wire: FaultProxy) -> int:
    return sum(hit.method in ("PUT", "DELETE") for hit in wire.log)


def at_change(number: int, action: Callable[[], None]) -> Callable[[str, str], None]:
    """A rule that does `action` before the change of that number reaches the service."""
    seen = itertools.count(1)

    def rule(method: str, path: str) -> None:
        if method in ("PUT", "DELETE") and next(seen) == number:
            action()

    return rule


@pytest.mark.parametrize(("one", "two"), [(ONE, TWO), (LARGE_ONE, LARGE_TWO)], ids=["small", "large"])
def test_a_run_that_stalls_and_goes_on_spoils_nothing_of_the_one_that_took_over(
    one: Files, two: Files, wires: list[FaultProxy], reach: Open, container: ContainerClient
) -> None:
    """It stalls before each of its changes in turn, and the other publishes meanwhile."""
    wire = wires[0]
    stalling, direct = reach(wire), reach()
    for number in range(1, 100):
        name = f"model-{number}"
        published: list[Files] = []

        def run(folder: FolderWriter, files: Files, done: list[Files] = published) -> None:
            with contextlib.suppress(PipelineError):
                folder.publish(list(files))
                done.append(files)

        first, second = begin(stalling, name, one), begin(direct, name, two)

        def take_over(name: str = name, second: FolderWriter = second) -> None:
            break_lease(container, name)
            run(second, two)

        wire.log.clear()
        wire.rule = at_change(number, take_over)
        run(first, one)
        wire.rule = lambda method, path: None
        if changes(wire) < number:
            break
        found = content(container, name)
        if CLAIM in found:
            assert not published, f"stalled before change {number}"
        else:
            assert found in published, f"stalled before change {number}"
    assert number > 7


@pytest.mark.parametrize(("at", "until"), [(5, 6), (6, 9), (7, 7), (8, 11)])
def test_what_two_interrupted_runs_leave_is_not_read_and_the_next_one_repairs_it(
    at: int,
    until: int,
    wires: list[FaultProxy],
    reach: Open,
    container: ContainerClient,
    settled: Callable[[str], bool],
) -> None:
    """One stalls, another takes over and is cut off in the middle, and the first one goes on."""
    stalling, cut_off = wires
    container.upload_blob("model/config.json", b"old")
    first, second = begin(reach(stalling), "model", ONE), begin(reach(cut_off), "model", TWO)
    requests = itertools.count(1)
    cut_off.rule = lambda method, path: 403 if next(requests) > until else None

    def take_over() -> None:
        break_lease(container, "model")
        with pytest.raises(PipelineError):
            second.publish(list(TWO))

    stalling.rule = at_change(at, take_over)
    with pytest.raises(PipelineError):
        first.publish(list(ONE))
    assert not settled("model")
    break_lease(container, "model")
    publish(reach(), "model", LARGE_ONE)
    assert settled("model")
    assert content(container, "model") == LARGE_ONE


def test_lost_answers_do_no_harm(
    wires: list[FaultProxy], reach: Open, container: ContainerClient
) -> None:
    """Each change is made, but its answer does not arrive: it is sent again, and found to be made."""
    wire = wires[0]
    for old in ("old", "config.json"):
        container.upload_blob(f"model/{old}", b"old")
    run = begin(reach(wire), "model", ONE)
    seen: set[tuple[str, str]] = set()

    def rule(method: str, path: str) -> str | None:
        if method not in ("PUT", "DELETE") or (method, path) in seen:
            return None
        seen.add((method, path))
        return "lost"

    wire.rule = rule
    run.publish(list(ONE))
    assert len(seen) > 8
    assert content(container, "model") == ONE


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_lives_is_waited_for_and_then_left_alone(
    overwrite: bool,
    reach: Open,
    impatient: None,
    container: ContainerClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = reach()
    claim = container.upload_blob(f"model/{CLAIM}", b'{"run":"x","host":"far","process":"","names":[]}')
    claim.acquire_lease(60)
    run = begin(store, "model", ONE, overwrite=overwrite)
    with caplog.at_level(logging.WARNING), pytest.raises(OutputExists, match="'far'"):
        run.publish(list(ONE))
    assert [record.getMessage().count("waiting") for record in caplog.records] == [1]
    break_lease(container, "model")  # now it is known for dead
    run.publish(list(ONE))
    assert content(container, "model") == ONE


@pytest.mark.parametrize("note", [b"", b"{", b"[1]", b'{"run":1,"host":2,"process":3,"names":["../x"]}'])
def test_a_claim_that_makes_no_sense_is_taken_over(
    note: bytes, reach: Open, container: ContainerClient
) -> None:
    container.upload_blob(f"model/{CLAIM}", note)
    publish(reach(), "model", ONE, overwrite=False)
    assert content(container, "model") == ONE


def test_what_a_run_before_might_still_commit_is_in_the_claim(
    reach: Open, container: ContainerClient, wires: list[FaultProxy]
) -> None:
    """Also if two runs were killed before this one: the third ends what any of them has staged."""
    wire = wires[0]
    for files in (ONE, TWO):
        run = begin(reach(wire), "model", files)
        wire.rule = lambda method, path: 403 if "comp=blocklist" in path or method == "DELETE" else None
        with pytest.raises(AccessError):
            run.publish(list(files))
        wire.rule = lambda method, path: None
    noted = json.loads(container.download_blob(f"model/{CLAIM}").readall())
    assert set(noted["names"]) == {*ONE, *TWO}
    publish(reach(), "model", {"x": b"x"}, overwrite=False)
    assert content(container, "model") == {"x": b"x"}


def test_a_failure_before_anything_has_changed_leaves_the_old_folder_to_readers(
    wires: list[FaultProxy],
    reach: Open,
    container: ContainerClient,
    settled: Callable[[str], bool],
) -> None:
    wire = wires[0]
    publish(reach(), "model", ONE)
    run = begin(reach(wire), "model", TWO)
    lists = itertools.count(1)
    wire.rule = lambda method, path: 403 if "comp=list" in path and next(lists) == 2 else None
    with pytest.raises(AccessError):
        run.publish(list(TWO))
    assert settled("model")
    assert content(container, "model") == ONE


def test_large_files_whose_blocks_another_run_has_discarded_are_noticed_in_time(
    reach: Open, container: ContainerClient, settled: Callable[[str], bool]
) -> None:
    late = begin(reach(), "model", LARGE_TWO)
    publish(reach(), "model", LARGE_ONE)
    with pytest.raises(OutputExists, match="another run"):
        late.publish(list(LARGE_TWO))
    assert settled("model")
    assert content(container, "model") == LARGE_ONE


def test_a_signature_that_may_not_delete_is_refused_before_the_work(
    azurite: Azurite, container: ContainerClient
) -> None:
    store = open_store(f"{azurite.url}/{container.container_name}?{azurite.sas_token('rwlc')}")
    with pytest.raises(AccessError, match="rwdlc"):
        store.create_folder("model", size_hint=1, overwrite=False)


def test_a_reader_never_goes_on_into_a_model_that_has_replaced_its_own(
    azurite: Azurite, container: ContainerClient, reach: Open
) -> None:
    publish(reach(), "model", ONE)
    url = f"{azurite.url}/{container.container_name}/model"
    view = open_store(url, AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key).published()
    assert view is not None
    assert [(blob.name, blob.nbytes) for blob in view.list()] == [
        (name, len(data)) for name, data in sorted(ONE.items())
    ]
    publish(reach(), "model", TWO)
    with pytest.raises(PipelineError, match="changed"):
        view.open("config.json").read_into(0, memoryview(bytearray(3)))
