"""One blob into another: every byte, in order past whoever looks, within few buffers."""

from __future__ import annotations

import random
import threading

import pytest
from servers.azurite import Azurite
from storage.helpers import get, open_store, put

from pipeline.errors import CorruptFile, StorageError, UsageError
from pipeline.storage.base import Puller, Reader, Store
from pipeline.storage.pour import pour, pull

DATA = random.Random(1).randbytes(5_000_001)


class Slow:
    """A reader whose blocks come in any order, and which counts how many are under way at once."""

    is_remote = True
    name = "slow"

    def __init__(self, data: bytes) -> None:
        self.nbytes = len(data)
        self.most = 0
        self._data = data
        self._now = 0
        self._lock = threading.Lock()
        self._random = random.Random(2)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            pause = self._random.random() / 200
        threading.Event().wait(pause)
        buffer[:] = self._data[offset : offset + len(buffer)]
        with self._lock:
            self._now -= 1

    def close(self) -> None:
        pass


def copied(reader: Reader, store: Store, name: str, *, memory_bytes: int) -> tuple[bytes, int]:
    """What whoever looks on was shown, and how many bytes were told of."""
    shown, told = bytearray(), []
    with store.create(name, size_hint=reader.nbytes, overwrite=False) as writer:
        pour(reader, writer, memory_bytes=memory_bytes, feed=shown.extend, advance=told.append)
        writer.commit()
    return bytes(shown), sum(told)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, len(DATA)])
def test_every_byte_is_copied_and_shown_in_order(store: Store, size: int) -> None:
    reader = Slow(DATA[:size])
    assert copied(reader, store, "x", memory_bytes=64 << 20) == (DATA[:size], size)
    assert get(store, "x") == DATA[:size]


def test_no_more_blocks_are_under_way_than_fit(tmp_path: object) -> None:
    for memory, most in ((2 << 20, 1), (6 << 20, 3), (1 << 30, 5)):
        reader = Slow(DATA)
        copied(reader, open_store(f"{tmp_path}/{memory}"), "x", memory_bytes=memory)
        assert 1 <= reader.most <= most
    with pytest.raises(UsageError, match="--memory"):
        copied(Slow(DATA), open_store(f"{tmp_path}/none"), "x", memory_bytes=1 << 20)


def test_what_the_onlooker_refuses_stops_everything(store: Store) -> None:
    def refuse(data: memoryview) -> None:
        raise CorruptFile("is not what it should be", where="x")

    with (
        pytest.raises(CorruptFile),
        store.create("x", size_hint=len(DATA), overwrite=False) as writer,
    ):
        pour(Slow(DATA), writer, memory_bytes=64 << 20, feed=refuse, advance=lambda count: None)
    assert list(store.list()) == []


def test_the_service_copies_in_blocks_of_what_was_opened(azurite: Azurite) -> None:
    url = f"{azurite.url}/{azurite.create_container().container_name}"
    store = open_store(url, AZURE_STORAGE_ACCOUNT_KEY=azurite.account_key)
    put(store, "a name/with ümlauts & more", DATA)
    reader = store.open("a name/with ümlauts & more")
    with store.create("x", size_hint=len(DATA), overwrite=False) as writer:
        assert isinstance(writer, Puller) and writer.can_pull(reader)
        pull(reader, writer, block_bytes=100_000, advance=lambda count: None)
        writer.commit()
    assert get(store, "x") == DATA
    put(store, "a name/with ümlauts & more", DATA[::-1], overwrite=True)
    with (
        pytest.raises(StorageError, match="changed"),
        store.create("y", size_hint=len(DATA), overwrite=False) as writer,
    ):
        assert isinstance(writer, Puller)
        pull(reader, writer, block_bytes=1 << 20, advance=lambda count: None)
    assert store.stat("y") is None
