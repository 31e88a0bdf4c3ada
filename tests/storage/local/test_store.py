"""What local stores promise beyond what every store does: modes, partials, full disks, crashes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.errors import NotFound, OutputExists, StorageError
from pipeline.storage.local.store import LocalStore

ROOT = Path(pipeline.__file__).resolve().parents[1]

# Kills itself just before step number STEP of publishing over an existing folder.
CRASH = """
import os, signal, sys
from pathlib import Path
from pipeline.storage.local.store import LocalStore

store, step = LocalStore(Path(sys.argv[1])), int(sys.argv[2])
with store.create_folder("model", size_hint=3, overwrite=True) as folder:
    writer = folder.create("config.json", size_hint=3)
    writer.write(0, b"new")
    writer.commit()
    seen = 0

    def watch(event, arguments):
        global seen
        if event in ("os.rename", "os.link", "os.remove", "os.rmdir", "shutil.rmtree"):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    folder.publish(["config.json"])
    print(seen)
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def put(store: LocalStore, name: str, data: bytes, *, overwrite: bool = False) -> Path:
    with store.create(name, size_hint=len(data), overwrite=overwrite) as writer:
        writer.write(0, data)
        writer.commit()
    return store.path(name)


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_files_are_for_everybody_to_read(store: LocalStore) -> None:
    before = os.umask(0o022)
    try:
        path = put(store, "x", b"abc")
        with store.create_folder("model", size_hint=3, overwrite=False) as folder:
            folder.create("a", size_hint=0).commit()
            folder.publish(["a"])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    assert store.path("model").stat().st_mode & 0o777 == 0o755
    assert store.path("model/a").stat().st_mode & 0o777 == 0o644


def test_work_in_progress_is_hidden_and_not_listed(store: LocalStore) -> None:
    with (
        store.create("deltas/x", size_hint=3, overwrite=False) as writer,
        store.create_folder("model", size_hint=3, overwrite=False) as folder,
    ):
        writer.write(0, b"abc")
        folder.create("a", size_hint=3).write(0, b"abc")
        visible = [name for name in everything(store.root) if "/." not in f"/{name}"]
        assert visible == ["deltas"]
        assert list(store.list()) == []
    assert everything(store.root) == ["deltas"]


def test_what_a_killed_run_left_is_not_taken_for_a_file(store: LocalStore) -> None:
    put(store, "x", b"abc")
    (store.root / ".y.partial-0a1b2c3d").write_bytes(b"half")
    (store.root / ".model.partial-0a1b2c3d").mkdir()
    (store.root / ".model.partial-0a1b2c3d" / "config.json").write_bytes(b"{}")
    assert [blob.name for blob in store.list()] == ["x"]


def test_a_result_larger_than_the_free_space_is_refused_before_the_first_byte(store: LocalStore) -> None:
    for start in (store.create, store.create_folder):
        with pytest.raises(StorageError, match="no space left") as error:
            start("deltas/x", size_hint=1 << 60, overwrite=False)
        assert str(store.path("deltas/x")) in str(error.value)
        assert not store.root.exists()


def test_a_disk_that_fills_up_is_said_so_and_leaves_nothing(store: LocalStore) -> None:
    with store.create("x", size_hint=3, overwrite=False) as writer:
        (partial,) = store.root.glob(".x.partial-*")
        partial.unlink()
        partial.symlink_to("/dev/full")  # from here on the kernel itself answers ENOSPC
        with pytest.raises(StorageError, match="no space left") as error:
            writer.write(0, b"abc")
        assert str(store.path("x")) in str(error.value)
    assert everything(store.root) == []


def test_a_limit_on_file_sizes_is_an_error_of_ours_and_leaves_nothing(store: LocalStore) -> None:
    program = """
import resource, sys
from pathlib import Path
from pipeline.errors import StorageError
from pipeline.storage.local.store import LocalStore

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    with LocalStore(Path(sys.argv[1])).create("x", size_hint=1, overwrite=False) as writer:
        for block in range(4):
            writer.write(block << 19, bytes(1 << 19))
        writer.commit()
except StorageError as error:
    print(error)
"""
    done = run(program, store.root)
    assert done.returncode == 0, done.stderr
    assert str(store.path("x")) in done.stdout
    assert everything(store.root) == []


def test_a_failed_commit_closes_no_file_but_its_own(store: LocalStore) -> None:
    """The number of a closed file is the next one's: to close it twice hits another writer."""
    with store.create("x", size_hint=3, overwrite=False) as late:
        late.write(0, b"abc")
        put(store, "x", b"first")
        with pytest.raises(OutputExists):
            late.commit()
        other = store.create("y", size_hint=3, overwrite=False)
    with other:
        other.write(0, b"abc")
        other.commit()
    assert store.path("y").read_bytes() == b"abc"


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_file_that_cannot_be_opened_makes_no_noise(store: LocalStore) -> None:
    with pytest.raises(NotFound):
        store.open("none")
    gc.collect()


def test_an_open_reader_goes_on_reading_what_it_opened(store: LocalStore) -> None:
    put(store, "x", b"old")
    reader = store.open("x")
    put(store, "x", b"new", overwrite=True)
    buffer = bytearray(3)
    reader.read_into(0, memoryview(buffer))
    reader.close()
    assert buffer == b"old"


@pytest.mark.parametrize("step", range(1, 5))
def test_a_crash_while_a_folder_is_overwritten_loses_neither_old_nor_new(
    store: LocalStore, step: int
) -> None:
    put(store, "model/config.json", b"old")
    done = run(CRASH, store.root, step)
    assert done.returncode in (0, -9), done.stderr
    assert store.path("model/config.json").read_bytes() in (b"old", b"new")
    if done.returncode == 0:
        assert int(done.stdout) < step


def test_listing_one_folder_does_not_look_into_others(tmp_path: Path) -> None:
    """A model may be written beside a home directory's worth of files."""
    for name in ("model", "other/deep/deeper"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    program = """
import sys
from pathlib import Path
from pipeline.storage.local.store import LocalStore

sys.addaudithook(lambda event, found: event == "os.scandir" and print(found[0]))
list(LocalStore(Path(sys.argv[1])).list("model/"))
"""
    done = run(program, tmp_path)
    assert "model" in done.stdout, done.stderr
    assert "other" not in done.stdout


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    """--overwrite would not help, so it is not what the error suggests."""
    (tmp_path / "deltas").write_text("a file")
    for start in (LocalStore(tmp_path).create, LocalStore(tmp_path).create_folder):
        with pytest.raises(StorageError) as error:
            start("deltas/x", size_hint=1, overwrite=False)
        assert str(tmp_path / "deltas") in str(error.value)
        assert "--overwrite" not in str(error.value)
    assert (tmp_path / "deltas").read_text() == "a file"
