"""What one process leaves for the next counts only if it is whole and the user's own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipeline.cache import UNUSED_S, cache_folder, forget_unused, read_cached, write_cached


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    for content in (b"first", b"second", b""):
        write_cached(tmp_path / "new folder" / "entry", content)
        assert read_cached(tmp_path / "new folder" / "entry") == content
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["entry"]


def test_nothing_is_read_where_nothing_is(tmp_path: Path) -> None:
    assert read_cached(tmp_path / "entry") is None
    assert read_cached(tmp_path) is None


@pytest.mark.parametrize("kept", [b"", b"short", bytes(40)])
def test_a_damaged_entry_counts_as_not_there(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "entry").write_bytes(kept)
    assert read_cached(tmp_path / "entry") is None


def test_one_flipped_bit_is_damage(tmp_path: Path) -> None:
    write_cached(tmp_path / "entry", b"content")
    data = bytearray((tmp_path / "entry").read_bytes())
    for at in range(len(data)):
        (tmp_path / "entry").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert read_cached(tmp_path / "entry") is None


def test_an_entry_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    write_cached(tmp_path / "entry", bytes(100))
    assert read_cached(tmp_path / "entry", most_bytes=131) is None
    assert read_cached(tmp_path / "entry", most_bytes=132) == bytes(100)


def test_an_entry_of_somebody_else_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cached(tmp_path / "entry", b"content")
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    assert read_cached(tmp_path / "entry") is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    write_cached(tmp_path / "file" / "entry", b"content")
    assert read_cached(tmp_path / "file" / "entry") is None


def test_what_was_not_asked_for_in_a_long_time_is_forgotten(tmp_path: Path) -> None:
    long_ago = time.time() - UNUSED_S - 60
    for name in ("unused.kept", "read.kept", "other.json"):
        write_cached(tmp_path / name, b"content")
        os.utime(tmp_path / name, (long_ago, long_ago))
    write_cached(tmp_path / "new.kept", b"content")
    assert read_cached(tmp_path / "read.kept") == b"content"
    forget_unused(tmp_path, "*.kept*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.kept", "other.json", "read.kept"]
    forget_unused(tmp_path / "nowhere", "*")


def test_the_folder_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("digests") == tmp_path / "paramdelta" / "digests"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "paramdelta"
