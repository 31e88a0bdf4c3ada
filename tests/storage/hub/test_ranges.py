"""What reading by range from the Hub promises: the right bytes or a clear error, and no file."""

from __future__ import annotations

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from servers.hub import HubServer
from servers.hub_reply import Reply
from storage.hub.helpers import REPO, WEIGHTS, content, is_whole, swap, weights

from pipeline import open_checkpoint
from pipeline.errors import CorruptFile, StorageError, Unreachable
from pipeline.settings import Settings
from pipeline.storage import retry

# -- in one go --------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["PIPELINE_HUB_CACHE", "keyword"])
def test_without_the_cache_weights_come_by_range_and_leave_no_file(
    hub: HubServer, source: Path, home: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    if setting != "keyword":
        monkeypatch.setenv(setting, "off")
    settings = Settings.load(hub_cache="off" if setting == "keyword" else None)
    with open_checkpoint(REPO, settings=settings) as model:
        assert is_whole(model, source)
    assert all(request.range for request in hub.gets())
    assert not home.exists()


def test_a_range_is_held_in_small_pieces_only(source: Path) -> None:
    reader = weights()
    data = bytearray(reader.nbytes)
    reader.read_into(0, memoryview(data)[:1000])  # imports and connects
    tracemalloc.start()
    try:
        reader.read_into(0, memoryview(data))
        assert tracemalloc.get_traced_memory()[1] < reader.nbytes / 4
    finally:
        tracemalloc.stop()
    assert data == (source / WEIGHTS).read_bytes()


def test_many_ranges_are_under_way_at_once(hub: HubServer, source: Path) -> None:
    reader, count = weights(), 8
    together = threading.Barrier(count)

    def wait(reply: Reply) -> Reply:
        together.wait(timeout=30)
        return reply

    hub.alter_next(WEIGHTS, wait, times=count)
    data = bytearray(reader.nbytes)
    size = -(-reader.nbytes // count)
    with ThreadPoolExecutor(count) as pool:
        starts = range(0, reader.nbytes, size)
        list(pool.map(lambda at: reader.read_into(at, memoryview(data)[at : at + size]), starts))
    assert data == (source / WEIGHTS).read_bytes()


# -- broken answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
def test_a_body_that_breaks_off_is_continued_where_it_stopped(
    hub: HubServer, source: Path, reset: bool
) -> None:
    hub.cut_next(WEIGHTS, after_bytes=1_000_000, reset=reset)
    assert content(weights()) == (source / WEIGHTS).read_bytes()
    first, second = hub.gets(WEIGHTS)
    assert first.range is not None
    assert second.range is not None
    start = int(second.range.removeprefix("bytes=").partition("-")[0])
    assert 0 < start <= 1_000_000 if reset else start == 1_000_000


def test_as_long_as_bytes_come_there_is_no_end_of_trying(hub: HubServer, source: Path) -> None:
    hub.cut_next(WEIGHTS, after_bytes=50_000, times=2 * retry.TRIES)
    assert content(weights()) == (source / WEIGHTS).read_bytes()
    assert len(hub.gets(WEIGHTS)) == 2 * retry.TRIES + 1


def test_a_connection_that_breaks_before_any_byte_is_given_up_in_the_end(
    hub: HubServer, source: Path
) -> None:
    hub.cut_next(WEIGHTS, after_bytes=0, times=100)
    with pytest.raises(Unreachable, match="gives no answer"):
        content(weights())
    assert len(hub.gets(WEIGHTS)) == retry.TRIES


def test_the_rest_of_an_answer_that_is_shorter_than_its_range_is_asked_for(
    hub: HubServer, source: Path
) -> None:
    """Allowed by HTTP, and self-consistent: nothing but the count of bytes shows it."""

    def shorten(reply: Reply) -> Reply:
        assert reply.file is not None
        last = reply.offset + 1000 - 1
        headers = {**reply.headers, "Content-Range": f"bytes {reply.offset}-{last}/{reply.file.size}"}
        return replace(reply, length=1000, headers=headers)

    hub.alter_next(WEIGHTS, shorten, times=2)
    assert content(weights()) == (source / WEIGHTS).read_bytes()
    assert len(hub.gets(WEIGHTS)) == 3


def test_an_answer_that_says_less_than_it_announced_is_completed(hub: HubServer, source: Path) -> None:
    hub.alter_next(WEIGHTS, lambda reply: replace(reply, length=5000))
    assert content(weights()) == (source / WEIGHTS).read_bytes()


def test_an_answer_about_another_range_is_not_taken(hub: HubServer, source: Path) -> None:
    def shift(reply: Reply) -> Reply:
        headers = {**reply.headers, "Content-Range": f"bytes 10-{reply.length + 9}/{reader.nbytes}"}
        return replace(reply, headers=headers)

    reader = weights()
    hub.alter_next(WEIGHTS, shift)
    assert content(reader) == (source / WEIGHTS).read_bytes()
    hub.alter_next(WEIGHTS, shift, times=100)
    with pytest.raises(Unreachable, match="range that was asked for"):
        content(reader)


def test_a_server_without_ranges_is_an_error_that_says_what_helps(hub: HubServer, source: Path) -> None:
    def whole(reply: Reply) -> Reply:
        assert reply.file is not None
        return Reply(200, {}, file=reply.file, length=reply.file.size)

    hub.alter_next(WEIGHTS, whole, times=100)
    with pytest.raises(StorageError, match="--hub-cache on"):
        weights().read_into(10, memoryview(bytearray(100)))
    assert content(weights()) == (source / WEIGHTS).read_bytes()  # there the whole file was meant


@pytest.mark.parametrize("status", [429, 503])
def test_the_hub_is_left_alone_for_as_long_as_it_asks(
    cdn: HubServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    cdn.fail_next(f"/api/models/{REPO}", status, retry_after=5)
    reader = weights()
    cdn.fail_next(WEIGHTS, status, retry_after=6)
    expected = content(reader)
    cdn.fail_next(f"{next(iter(cdn.cdn_files))}/{WEIGHTS}", status, retry_after=7)
    assert content(reader) == expected
    assert waits == [5, 6, 7]


# -- a file that changes ----------------------------------------------------------------------


@pytest.mark.parametrize("grow", [False, True])
def test_a_file_that_changes_between_two_ranges_is_refused(
    hub: HubServer, source: Path, tmp_path: Path, grow: bool
) -> None:
    reader = weights()
    reader.read_into(0, memoryview(bytearray(100)))
    swap(hub, tmp_path, grow=grow)
    with pytest.raises(CorruptFile, match="changed while it was being read") as error:
        reader.read_into(100, memoryview(bytearray(100)))
    assert WEIGHTS in str(error.value)
    assert REPO in str(error.value)


def test_a_file_that_is_not_as_long_as_the_hub_listed_it_is_refused(
    hub: HubServer, source: Path, tmp_path: Path
) -> None:
    reader = weights()
    swap(hub, tmp_path, grow=True)
    with pytest.raises(CorruptFile, match="listed it with"):
        content(reader)
