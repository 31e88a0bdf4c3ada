"""One contender moves one gibibyte up or down, and says how long that took and what it cost.

    python wire_client.py CONTENDER up|down URL FILE     # prints {"wall": s, "cpu": s, "peak": bytes}

URL is a container's, FILE the gibibyte that is sent; what comes down is thrown away. Imports are not in
the times, for they are the same whatever is moved.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BLOCK = 8 << 20
THREADS = 4
ROOT = Path(__file__).resolve().parents[1]

Move = Callable[[], None]


def key() -> dict[str, str]:
    """The account that the benchmark's servers know."""
    return {"account_name": os.environ["WIRE_ACCOUNT"], "account_key": os.environ["WIRE_KEY"]}


class Nothing(io.RawIOBase):
    """Throws away what is written to it, wherever."""

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset

    def write(self, data: Any) -> int:
        return len(data)


def in_pieces(size: int, threads: int, move: Callable[[int, memoryview], None]) -> None:
    """Call `move` for every piece, with a buffer of the thread's own."""
    own = threading.local()

    def work(offset: int) -> None:
        if not hasattr(own, "buffer"):
            own.buffer = memoryview(bytearray(BLOCK))
        move(offset, own.buffer[: min(BLOCK, size - offset)])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(0, size, BLOCK)))


def ours(direction: str, url: str, file: Path) -> Move:
    """The pipeline's own reader and writer, with as many threads as a walk has."""
    sys.path.insert(0, str(ROOT))
    import azure.storage.blob  # noqa: F401

    from pipeline.engine.schedule import REMOTE_WORKERS
    from pipeline.settings import Settings
    from pipeline.storage.locations import parse_store
    from pipeline.storage.opening import open_folder

    env = {"AZURE_STORAGE_ACCOUNT_URL": url.rpartition("/")[0]}
    env["AZURE_STORAGE_ACCOUNT_KEY"] = key()["account_key"]
    store = open_folder(parse_store(url), Settings.from_mapping(env))

    def up() -> None:
        size = file.stat().st_size
        source = os.open(file, os.O_RDONLY)
        with store.create("new", size_hint=size, overwrite=True) as writer:

            def move(offset: int, buffer: memoryview) -> None:
                os.preadv(source, [buffer], offset)
                writer.write(offset, buffer)

            in_pieces(size, REMOTE_WORKERS, move)
            writer.commit()

    def down() -> None:
        reader = store.open("blob")
        in_pieces(reader.nbytes, REMOTE_WORKERS, reader.read_into)

    return up if direction == "up" else down


def sdk(direction: str, url: str, file: Path, *, tuned: bool, md5: bool = False) -> Move:
    """azure-storage-blob as its documentation shows it, or with its options tuned."""
    from azure.storage.blob import ContainerClient

    account, _, container = url.rpartition("/")
    options: dict[str, Any] = {}
    if tuned:
        sizes = ("max_block_size", "max_single_put_size", "max_single_get_size", "max_chunk_get_size")
        options = dict.fromkeys(sizes, BLOCK)
    client = ContainerClient(account, container, credential=key(), api_version="2026-06-06", **options)
    threads = {"max_concurrency": THREADS} if tuned else {}

    def up() -> None:
        with file.open("rb") as source:
            client.upload_blob("new", source, overwrite=True, validate_content=md5, **threads)

    def down() -> None:
        client.download_blob("blob", **threads).readinto(Nothing())

    return up if direction == "up" else down


def obstore(direction: str, url: str, file: Path) -> Move:
    """obstore, whose work is done in Rust."""
    sys.path.append(os.environ["WIRE_PEERS"])
    import obstore as library
    from obstore.store import AzureStore

    account, _, container = url.rpartition("/")
    store = AzureStore(
        container_name=container, account_name=key()["account_name"], access_key=key()["account_key"],
        endpoint=account, client_options={"allow_http": True},
    )  # fmt: skip

    def up() -> None:
        with file.open("rb") as source:
            library.put(store, "new", source, chunk_size=BLOCK, max_concurrency=THREADS)

    def down() -> None:
        size = library.head(store, "blob")["size"]

        def move(offset: int, buffer: memoryview) -> None:
            library.get_range(store, "blob", start=offset, length=len(buffer))

        in_pieces(size, THREADS, move)

    return up if direction == "up" else down


def raw(direction: str, url: str, file: Path) -> Move:
    """http.client with nothing around it: no signature, no digest, no retries."""
    parts = urlsplit(url)
    own = threading.local()

    def connection() -> http.client.HTTPConnection:
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection(parts.netloc)
        return own.connection

    def up() -> None:
        source = os.open(file, os.O_RDONLY)

        def move(offset: int, buffer: memoryview) -> None:
            os.preadv(source, [buffer], offset)
            connection().request("PUT", f"{parts.path}/new?comp=block&blockid={offset}", buffer)
            connection().getresponse().read()

        in_pieces(file.stat().st_size, THREADS, move)

    def down() -> None:
        def move(offset: int, buffer: memoryview) -> None:
            wanted = f"bytes={offset}-{offset + len(buffer) - 1}"
            connection().request("GET", f"{parts.path}/blob", headers={"Range": wanted})
            answer = connection().getresponse()
            got = 0
            while got < len(buffer):
                got += answer.readinto(buffer[got:])
            answer.read()

        in_pieces(file.stat().st_size, THREADS, move)

    return up if direction == "up" else down


def md5(direction: str, url: str, file: Path) -> Move:
    """The digests alone: what no client that sends Content-MD5 can do without."""

    def work() -> None:
        source = os.open(file, os.O_RDONLY)

        def move(offset: int, buffer: memoryview) -> None:
            os.preadv(source, [buffer], offset)
            hashlib.md5(buffer, usedforsecurity=False)

        in_pieces(file.stat().st_size, THREADS, move)

    return work


CONTENDERS: dict[str, Callable[[str, str, Path], Move]] = {
    "ours": ours,
    "sdk": lambda *call: sdk(*call, tuned=False),
    "tuned": lambda *call: sdk(*call, tuned=True),
    "tuned-md5": lambda *call: sdk(*call, tuned=True, md5=True),
    "obstore": obstore,
    "raw": raw,
    "md5": md5,
}


if __name__ == "__main__":
    move = CONTENDERS[sys.argv[1]](sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    before, began = os.times(), time.perf_counter()
    move()
    wall, after = time.perf_counter() - began, os.times()
    cpu = after.user + after.system - before.user - before.system
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak}))
    sys.stdout.flush()
    os._exit(0)
