"""What killed runs leave in a folder is found and removed, and nothing of what lives."""

from __future__ import annotations

from pathlib import Path

import pytest
from storage.helpers import MODEL, kinds, only, publish

from pipeline.errors import OutputExists, StorageError
from pipeline.storage.local.store import LocalStore


def test_a_partial_is_left_over_once_its_run_has_ended(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    file = store.create("deltas/d", size_hint=3, overwrite=False)
    folder = store.create_folder("models/m", size_hint=3, overwrite=False)
    file.write(0, b"abc")
    folder.create("sub/config.json", size_hint=3).write(0, b"abcd")
    assert list(store.leftovers()) == []  # they live
    del file, folder
    found = {each.name: each for each in store.leftovers()}
    assert {name: (each.kind, each.nbytes) for name, each in found.items()} == {
        "deltas/d": ("partial", 3),
        "models/m": ("partial", 4),
    }
    assert kinds(store, "mod") == {"models/m": "partial"}
    for each in found.values():
        assert each.modified is not None
        store.clear(each)
    assert [path.name for path in tmp_path.rglob("*")] == ["deltas", "models"]


def test_a_partial_that_has_grown_since_is_not_removed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    partial = tmp_path / ".d.partial-0123abcd"
    partial.write_bytes(b"abc")
    found = only(store)
    partial.write_bytes(b"abcd")
    with pytest.raises(StorageError, match="changed"):
        store.clear(found)
    assert partial.read_bytes() == b"abcd"


def test_a_folder_in_which_another_run_writes_is_not_deleted(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    publish(store, "m", MODEL)
    with store.create("m/more", size_hint=1, overwrite=False) as writer:
        writer.write(0, b"1")
        with pytest.raises(OutputExists, match="another run"):
            store.delete_folder("m", list(store.list("m/")))
        writer.commit()
    assert (tmp_path / "m" / "more").exists()
