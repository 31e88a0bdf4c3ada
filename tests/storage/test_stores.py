"""What every store promises, shown on local folders and on containers alike."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from storage.helpers import get, names, publish, put

from pipeline.errors import (
    CorruptFile,
    NotFound,
    OutputExists,
    PipelineError,
    StorageError,
    UsageError,
)
from pipeline.storage.base import Store

BAD_NAMES = ("../out", "a/../../out", "/etc/out", "", "a//b", ".", "a\\b", "c:/out", "a\nb")


def random_bytes(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


# -- one blob ---------------------------------------------------------------------------------


def test_blocks_written_in_any_order_make_one_blob(store: Store) -> None:
    data = random_bytes(1_000_003)
    cuts = [0, 1, 70_000, 70_007, 500_000, len(data)]
    ranges = list(pairwise(cuts))
    random.Random(1).shuffle(ranges)
    with store.create("deltas/x.safetensors", size_hint=len(data), overwrite=False) as writer:
        for start, stop in ranges:
            writer.write(start, data[start:stop])
        writer.commit()
    assert get(store, "deltas/x.safetensors") == data
    assert store.stat("deltas/x.safetensors").nbytes == len(data)  # type: ignore[union-attr]


def test_many_threads_write_one_blob_and_many_read_it(store: Store) -> None:
    data, size = random_bytes(4 << 20, seed=2), 128 << 10
    starts = list(range(0, len(data), size))
    with ThreadPoolExecutor(8) as pool:
        with store.create("x", size_hint=len(data), overwrite=False) as writer:
            list(pool.map(lambda at: writer.write(at, data[at : at + size]), reversed(starts)))
            writer.commit()
        reader = store.open("x")

        def read(at: int) -> bytes:
            buffer = bytearray(size)
            reader.read_into(at, memoryview(buffer))
            return bytes(buffer)

        assert b"".join(pool.map(read, starts)) == data


def test_a_buffer_may_be_reused_as_soon_as_it_is_written(store: Store) -> None:
    buffer = bytearray(b"aaaa")
    with store.create("x", size_hint=8, overwrite=False) as writer:
        writer.write(0, buffer)
        buffer[:] = b"bbbb"
        writer.write(4, memoryview(buffer))
        buffer[:] = b"cccc"
        writer.commit()
    assert get(store, "x") == b"aaaabbbb"


def test_a_blob_may_be_empty(store: Store) -> None:
    put(store, "empty", b"")
    assert (get(store, "empty"), names(store)) == (b"", ["empty"])


def test_nothing_is_visible_before_the_commit(store: Store, open_store: Callable[[], Store]) -> None:
    other = open_store()
    with store.create("x", size_hint=3, overwrite=False) as writer:
        writer.write(0, b"abc")
        assert other.stat("x") is None
        assert names(other) == []
        with pytest.raises(NotFound):
            other.open("x")
        writer.commit()
        assert get(other, "x") == b"abc"
    assert get(other, "x") == b"abc"  # leaving the block after a commit takes nothing back


def test_what_is_not_committed_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.create("x", size_hint=3, overwrite=False) as writer:
        writer.write(0, b"abc")
        raise ZeroDivisionError
    with store.create("y", size_hint=3, overwrite=False) as writer:
        writer.write(0, b"abc")
    assert names(store) == []
    put(store, "x", b"second run")
    assert get(store, "x") == b"second run"


def test_a_name_that_is_taken_is_refused_before_anything_is_written(store: Store) -> None:
    put(store, "x", b"old")
    with pytest.raises(OutputExists, match="--overwrite"):
        store.create("x", size_hint=3, overwrite=False)
    assert get(store, "x") == b"old"


def test_overwriting_replaces_the_blob_at_the_commit(store: Store) -> None:
    put(store, "x", b"old and longer")
    with store.create("x", size_hint=3, overwrite=True) as writer:
        writer.write(0, b"new")
        assert get(store, "x") == b"old and longer"
        writer.commit()
    assert get(store, "x") == b"new"
    put(store, "y", b"there was none", overwrite=True)
    assert get(store, "y") == b"there was none"


def test_of_two_writers_of_one_name_the_first_commit_wins(store: Store) -> None:
    first = store.create("x", size_hint=3, overwrite=False)
    second = store.create("x", size_hint=3, overwrite=False)
    with first, second:
        first.write(0, b"one")
        second.write(0, b"two")
        second.commit()
        with pytest.raises(OutputExists):
            first.commit()
    assert get(store, "x") == b"two"
    assert names(store) == ["x"]


def test_of_writers_that_race_exactly_one_wins_and_nothing_is_mixed(store: Store) -> None:
    for number in range(5):
        start = threading.Barrier(4)

        def run(mark: int, name: str = f"x{number}", start: threading.Barrier = start) -> bool:
            with store.create(name, size_hint=200, overwrite=False) as writer:
                writer.write(100, bytes([mark]) * 100)
                writer.write(0, bytes([mark]) * 100)
                start.wait(timeout=60)
                try:
                    writer.commit()
                except OutputExists:
                    return False
            return True

        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(run, range(4)))
        assert won.count(True) == 1
        assert get(store, f"x{number}") == bytes([won.index(True)]) * 200


@pytest.mark.parametrize("blocks", [[(1, b"late")], [(0, b"ab"), (3, b"d")], [(0, b"abc"), (2, b"cd")]])
def test_a_hole_or_an_overlap_is_refused_at_the_commit(
    store: Store, blocks: list[tuple[int, bytes]]
) -> None:
    with store.create("x", size_hint=8, overwrite=False) as writer:
        for offset, data in blocks:
            writer.write(offset, data)
        with pytest.raises(CorruptFile):
            writer.commit()
    assert names(store) == []


@pytest.mark.parametrize("offset", [1, 3, 1000])
def test_reading_beyond_the_end_says_that_the_file_is_too_short(store: Store, offset: int) -> None:
    put(store, "x", b"abc")
    with pytest.raises(CorruptFile, match="truncated"):
        store.open("x").read_into(offset, memoryview(bytearray(3)))


def test_a_reader_never_sees_a_blob_that_replaced_its_own(store: Store) -> None:
    put(store, "x", b"old")
    reader = store.open("x")
    put(store, "x", b"new", overwrite=True)
    buffer = bytearray(3)
    try:
        reader.read_into(0, memoryview(buffer))
    except PipelineError as error:
        assert "changed" in str(error) and reader.name in str(error)
    else:
        assert buffer == b"old"


def test_a_blob_that_is_not_there_is_named(store: Store) -> None:
    assert store.stat("deltas/none") is None
    with pytest.raises(NotFound, match="deltas/none"):
        store.open("deltas/none")


def test_a_name_that_leaves_the_store_is_refused(store: Store) -> None:
    with store.create_folder("folder", size_hint=1, overwrite=False) as folder:
        for name in BAD_NAMES:
            uses: list[Callable[[], object]] = [
                lambda: store.stat(name),  # noqa: B023
                lambda: store.open(name),  # noqa: B023
                lambda: store.create(name, size_hint=1, overwrite=True),  # noqa: B023
                lambda: store.create_folder(name, size_hint=1, overwrite=True),  # noqa: B023
                lambda: folder.create(name, size_hint=1),  # noqa: B023
            ]
            for use in uses:
                with pytest.raises(UsageError):
                    use()
    assert names(store) == []


# -- many blobs -------------------------------------------------------------------------------


def test_a_list_is_sorted_by_name_and_keeps_to_its_prefix(store: Store) -> None:
    for name in ("b", "a/c", "a-b", "ab", "B"):
        put(store, name, name.encode())
    assert names(store) == sorted(["b", "a/c", "a-b", "ab", "B"])
    assert names(store, "a") == ["a-b", "a/c", "ab"]
    assert names(store, "a/") == ["a/c"]
    assert names(store, "none") == []
    assert {blob.name: blob.nbytes for blob in store.list("a")} == {"a-b": 3, "a/c": 3, "ab": 2}


@pytest.mark.parametrize("prefix", ["../", "a/../../", "/", "/etc/", "a//", "./", "a\\b", "c:/x"])
def test_a_prefix_that_leaves_the_store_is_refused(store: Store, prefix: str) -> None:
    with pytest.raises(UsageError):
        names(store, prefix)


# -- what was seen, and deleting it -------------------------------------------------------------


MODEL = {"model.safetensors": b"weights", "sub/template.jinja": b"{}", "config.json": b"{}"}


def test_a_look_tells_versions_that_change_with_the_blob(store: Store) -> None:
    put(store, "a/x", b"one")
    put(store, "b", b"other")
    (before,) = store.list("a/")
    assert (before.name, before.nbytes) == ("a/x", 3)
    assert list(store.list("a/")) == [before]
    put(store, "a/x", b"two", overwrite=True)
    (after,) = store.list("a/")
    assert after.version != before.version and after.modified >= before.modified


def test_a_folder_of_a_store_is_a_store(store: Store) -> None:
    put(store, "models/a/config.json", b"{}")
    inner = store.folder("models").folder("a")
    assert names(inner) == ["config.json"]
    assert get(inner, "config.json") == b"{}"
    with pytest.raises(UsageError):
        store.folder("../out")


def test_a_blob_is_deleted_as_it_was_seen(store: Store) -> None:
    put(store, "x", b"old")
    put(store, "x.sig", b"kept")
    (seen, _) = store.list("x")
    store.delete(seen)
    assert names(store) == ["x.sig"]
    store.delete(seen)  # gone is gone
    put(store, "x", b"new")
    assert get(store, "x") == b"new"


def test_a_blob_that_has_changed_since_it_was_seen_is_not_deleted(store: Store) -> None:
    put(store, "x", b"old")
    (seen,) = store.list("x")
    put(store, "x", b"new", overwrite=True)
    with pytest.raises(StorageError, match="changed"):
        store.delete(seen)
    assert get(store, "x") == b"new"
    assert names(store) == ["x"]


def test_a_folder_is_deleted_whole_and_nothing_beside_it(store: Store) -> None:
    for name in ("models/a", "models/ab"):
        publish(store, name, MODEL)
    store.delete_folder("models/a", list(store.list("models/a/")))
    assert names(store) == sorted(f"models/ab/{name}" for name in MODEL)
    publish(store, "models/a", MODEL)
    assert store.folder("models/a").published() is not None


def test_a_folder_that_has_changed_since_it_was_seen_stays_as_it_is(store: Store) -> None:
    publish(store, "model", MODEL)
    seen = list(store.list("model/"))
    for change in ("model/new", "model/config.json"):
        put(store, change, b"[]", overwrite=True)
        before = list(store.list())
        with pytest.raises(StorageError, match="changed"):
            store.delete_folder("model", seen)
        assert list(store.list()) == before
    assert store.folder("model").published() is not None


def test_a_store_without_leftovers_says_so(store: Store) -> None:
    put(store, "deltas/x", b"abc")
    publish(store, "model", MODEL)
    assert list(store.leftovers()) == []
    assert list(store.leftovers("model/")) == []
    with pytest.raises(UsageError):
        list(store.leftovers("../"))
