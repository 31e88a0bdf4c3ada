"""What several test modules of stores share: opening one by its location, and whole blobs."""

from __future__ import annotations

from pipeline.settings import Settings
from pipeline.storage.base import Store
from pipeline.storage.locations import parse_store
from pipeline.storage.opening import open_folder


def open_store(text: str, **env: str) -> Store:
    return open_folder(parse_store(text), Settings.from_mapping(env))


def put(store: Store, name: str, data: bytes, *, overwrite: bool = False) -> None:
    with store.create(name, size_hint=len(data), overwrite=overwrite) as writer:
        half = len(data) // 2
        writer.write(half, data[half:])
        writer.write(0, data[:half])
        writer.commit()


def get(store: Store, name: str) -> bytes:
    reader = store.open(name)
    data = bytearray(reader.nbytes)
    reader.read_into(0, memoryview(data))
    return bytes(data)
