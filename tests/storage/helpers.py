"""What several test modules of stores share: opening one by its location, and whole blobs."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.settings import Settings
from pipeline.storage.base import Leftover, Store
from pipeline.storage.locations import parse_store
from pipeline.storage.opening import open_folder

Files = dict[str, bytes]

MODEL: Files = {"model.safetensors": b"weights", "tokenizer.json": b"{}", "config.json": b"{}"}


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
    reader.close()
    return bytes(data)


def publish(store: Store, name: str, files: Files, *, overwrite: bool = False) -> None:
    with store.create_folder(name, size_hint=100, overwrite=overwrite) as folder:
        for file, data in files.items():
            with folder.create(file, size_hint=len(data)) as writer:
                writer.write(0, data)
                writer.commit()
        folder.publish(list(files))


def names(store: Store, prefix: str = "") -> list[str]:
    return [blob.name for blob in store.list(prefix)]


def content(store: Store, name: str) -> Files:
    """The files of a folder."""
    return {blob.removeprefix(f"{name}/"): get(store, blob) for blob in names(store, f"{name}/")}


def only(store: Store, prefix: str = "") -> Leftover:
    (found,) = store.leftovers(prefix)
    return found


def kinds(store: Store, prefix: str = "") -> dict[str, str]:
    return {found.name: found.kind for found in store.leftovers(prefix)}


def fail(error: Exception, times: int, result: int = 1) -> Callable[[], int]:
    """What raises `error` so many times before it returns."""
    left = [error] * times

    def action() -> int:
        if left:
            raise left.pop()
        return result

    return action
