"""What killed runs leave behind: the next run of the same name removes it, and nothing that lives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pipeline
from pipeline.storage.local.store import LocalStore

ROOT = Path(pipeline.__file__).resolve().parents[1]

# Writes a file and a folder, and never comes to publish them.
RUN = """
import sys
from pathlib import Path
from pipeline.storage.local.store import LocalStore

store = LocalStore(Path(sys.argv[1]))
file = store.create("delta", size_hint=3, overwrite=True)
file.write(0, b"abc")
folder = store.create_folder("model", size_hint=3, overwrite=True)
folder.create("sub/config.json", size_hint=3).write(0, b"abc")
print("written", flush=True)
input()
file.commit()
folder.publish([])
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


@contextmanager
def run(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout
        assert program.stdout.readline() == "written\n"
        yield program
        program.kill()


def partials(folder: Path) -> list[str]:
    return sorted(path.name.partition(".partial-")[0] for path in folder.glob(".*.partial-*"))


def begin_all(store: LocalStore) -> None:
    with (
        store.create("delta", size_hint=1, overwrite=True),
        store.create_folder("model", size_hint=1, overwrite=True),
    ):
        pass


def test_what_a_killed_run_left_is_removed_by_the_next_run_of_that_name(store: LocalStore) -> None:
    with run(store.root) as program:
        program.kill()
        program.wait()
        assert partials(store.root) == [".delta", ".model"]
        store.create("delta", size_hint=1, overwrite=False).abort()
        assert partials(store.root) == [".model"]
        store.create_folder("model", size_hint=1, overwrite=False).abort()
        assert partials(store.root) == []


def test_what_a_run_that_lives_is_writing_is_left_alone(store: LocalStore) -> None:
    with run(store.root) as program:
        begin_all(store)
        assert partials(store.root) == [".delta", ".model"]
        program.communicate("go on\n", timeout=30)
        assert program.returncode == 0
    assert store.path("delta").read_bytes() == b"abc"
    assert store.path("model").is_dir()
    assert partials(store.root) == []


def test_other_names_and_other_kinds_of_files_are_left_alone(store: LocalStore) -> None:
    kept = [
        ".model2.partial-0a1b2c3d",
        ".xmodel.partial-0a1b2c3d",
        ".model.partial-mine",
        ".model.partial-0a1b2c3d-replaced",
        "model.partial-0a1b2c3d",
    ]
    for name in kept:
        (store.root / name).mkdir()
    begin_all(store)
    assert sorted(path.name for path in store.root.iterdir()) == sorted(kept)


def test_a_link_in_the_place_of_a_partial_is_not_followed(store: LocalStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("content")
    (store.root / ".model.partial-0a1b2c3d").symlink_to(precious)
    begin_all(store)
    assert (precious / "file").read_text() == "content"


def test_a_run_that_has_published_holds_nothing(store: LocalStore) -> None:
    """Its lock is not on the file that it made: another may write over it, also in this process."""
    for data in (b"one", b"two"):
        with store.create("delta", size_hint=3, overwrite=True) as writer:
            writer.write(0, data)
            writer.commit()
    assert store.path("delta").read_bytes() == b"two"
    assert [path.name for path in store.root.iterdir()] == ["delta"]
