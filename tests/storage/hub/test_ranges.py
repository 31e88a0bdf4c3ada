"""What reading by range from the Hub promises: the right bytes or a clear error, and no file."""

from __future__ import annotations

import logging
import threading
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from servers.hub import HubServer
from servers.hub_reply import Reply
from servers.hub_repos import HubFile
from storage.hub_models import is_whole, large

from pipeline import open_checkpoint
from pipeline.errors import CorruptFile, PipelineError, StorageError, Unreachable
from pipeline.redaction import redacting
from pipeline.settings import Settings
from pipeline.storage import retry
from pipeline.storage.base import Reader
from pipeline.storage.hub.models import HubRepo

REPO = "org/model"
WEIGHTS = "model.safetensors"
CANARY = "canary"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.01)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def source(hub: HubServer, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of 2 MiB on a Hub that has the bytes itself."""
    hub.patch_client(monkeypatch, home)
    folder = large(tmp_path / "source")
    hub.add_repo(REPO, folder)
    return folder


@pytest.fixture
def cdn(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The same model, for one token, on a Hub that sends clients to another host for it."""
    with HubServer(cdn=True) as server:
        server.patch_client(monkeypatch, home)
        server.add_repo(REPO, large(tmp_path / "cdn-source"), private=True, token="token-canary")
        monkeypatch.setenv("HF_TOKEN", "token-canary")
        yield server


def weights() -> Reader:
    return HubRepo(REPO, None).open(WEIGHTS)


def content(reader: Reader) -> bytes:
    """The whole file, asked for as one range."""
    data = bytearray(reader.nbytes)
    reader.read_into(0, memoryview(data))
    return bytes(data)


def shown(error: BaseException) -> str:
    """Everything that anybody gets to see of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error)


def resolved(hub: HubServer) -> int:
    """How often the Hub was asked where the bytes are."""
    return sum(not request.cdn and request.path.endswith(WEIGHTS) for request in hub.requests)


def swap(hub: HubServer, tmp_path: Path, *, grow: bool = False) -> None:
    """Give the commit's weights another content, of the same size or another."""
    repo = hub.repos[REPO]
    old = repo.commits[repo.sha()].files[WEIGHTS]
    path = tmp_path / WEIGHTS
    path.write_bytes(bytes(old.size + grow))
    repo.commits[repo.sha()].files[WEIGHTS] = HubFile.read(path, WEIGHTS)


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


def test_with_the_cache_they_are_kept_there(hub: HubServer, source: Path, home: Path) -> None:
    for mode in ("on", "auto"):
        with open_checkpoint(REPO, settings=Settings.load(hub_cache=mode)) as model:
            assert is_whole(model, source)
    assert len(hub.gets(WEIGHTS)) == 1
    assert [path.name for path in home.rglob("*.safetensors")] == [WEIGHTS]


@pytest.mark.parametrize("what", ["no room", "no right"])
def test_left_to_itself_it_keeps_nothing_where_it_can_not(
    source: Path, home: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "no room":
        monkeypatch.setattr("pipeline.storage.hub.models.free_bytes", lambda path: 1 << 20)
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/proc/hub")
    with open_checkpoint(REPO) as model:
        assert is_whole(model, source)
    assert not list(home.rglob("*.safetensors"))


def test_what_the_cache_already_has_is_read_there(hub: HubServer, source: Path) -> None:
    open_checkpoint(REPO).close()
    hub.requests.clear()
    with open_checkpoint(REPO, settings=Settings.load(hub_cache="off")) as model:
        assert is_whole(model, source)
    assert not hub.gets()


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


def test_a_file_that_changes_behind_its_signed_address_is_refused(
    cdn: HubServer, tmp_path: Path
) -> None:
    reader = weights()
    reader.read_into(0, memoryview(bytearray(100)))
    (etag, old), path = dict(cdn.cdn_files).popitem(), tmp_path / "other"
    path.write_bytes(bytes(old.size))
    cdn.cdn_files[etag] = HubFile.read(path, WEIGHTS)
    with pytest.raises(CorruptFile, match="ETag"):
        reader.read_into(100, memoryview(bytearray(100)))


def test_a_file_that_changes_before_it_is_signed_again_is_refused(
    cdn: HubServer, tmp_path: Path
) -> None:
    reader = weights()
    reader.read_into(0, memoryview(bytearray(100)))
    swap(cdn, tmp_path)
    cdn.expire_signatures()
    with pytest.raises(CorruptFile, match="ETag"):
        reader.read_into(100, memoryview(bytearray(100)))


def flip(tmp_path: Path) -> Callable[[Reply], Reply]:
    """What changes one bit of a file on its way."""

    def change(reply: Reply) -> Reply:
        assert reply.file is not None
        content = bytearray(reply.file.source.read_bytes())
        content[len(content) // 2] ^= 1
        path = tmp_path / "flipped"
        path.write_bytes(content)
        return replace(reply, file=HubFile.read(path, reply.file.path))

    return change


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
@pytest.mark.parametrize("cache", ["on", "off"])
def test_a_whole_file_that_came_damaged_is_fetched_again(
    hub: HubServer, source: Path, tmp_path: Path, name: str, cache: str
) -> None:
    repo = HubRepo(REPO, None)
    hub.alter_next(name, flip(tmp_path))
    if cache == "on":
        repo.fetch([name])
    assert content(repo.open(name)) == (source / name).read_bytes()
    assert len(hub.gets(name)) == 2


@pytest.mark.parametrize("cache", ["on", "off"])
def test_a_whole_file_that_always_comes_damaged_is_refused_and_not_kept(
    hub: HubServer, source: Path, home: Path, tmp_path: Path, cache: str
) -> None:
    repo = HubRepo(REPO, None)
    hub.alter_next(WEIGHTS, flip(tmp_path), times=100)
    with pytest.raises(CorruptFile, match="digest"):
        repo.fetch([WEIGHTS]) if cache == "on" else content(repo.open(WEIGHTS))
    assert not list(home.rglob(WEIGHTS))
    assert not [path for path in home.rglob("blobs/*") if path.is_file()]


# -- another host -----------------------------------------------------------------------------


def test_the_address_on_another_host_is_used_again_and_never_gets_the_token(cdn: HubServer) -> None:
    reader, data = weights(), memoryview(bytearray(1000))
    for offset in range(0, 5000, 1000):
        reader.read_into(offset, data)
    assert resolved(cdn) == 1
    assert [request.authorized for request in cdn.requests if request.cdn] == [False] * 10  # read twice
    assert all(request.authorized for request in cdn.requests if not request.cdn)


def test_an_address_that_has_expired_is_asked_for_again(cdn: HubServer) -> None:
    reader = weights()
    expected = content(reader)
    cdn.expire_signatures()
    assert content(reader) == expected
    assert resolved(cdn) == 2


@pytest.mark.parametrize("what", ["expired", "throttled", "lost", "cut", "down"])
def test_no_error_shows_the_signature_or_the_token(cdn: HubServer, what: str) -> None:
    reader = weights()
    reader.read_into(0, memoryview(bytearray(100)))
    path = f"{next(iter(cdn.cdn_files))}/{WEIGHTS}"
    match what:
        case "expired":
            cdn.fail_next(path, 403, times=100)
        case "throttled":
            cdn.fail_next(path, 429, times=100)
        case "lost":
            cdn.fail_next(path, 404, times=100)
        case "cut":
            cdn.cut_next(path, after_bytes=0, times=100)
        case "down":
            cdn.stop()
    with pytest.raises(Unreachable) as error:
        content(reader)
    assert CANARY not in shown(error.value)
    assert WEIGHTS in str(error.value)
    assert CANARY not in repr(vars(reader)["_signed"])


def test_no_log_shows_the_signature_or_the_token(
    cdn: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither ours nor those of the libraries, down to what they say of each header."""
    with redacting(), caplog.at_level(logging.DEBUG):
        weights().read_into(0, memoryview(bytearray(100)))
    assert "X-Signature=" in caplog.text
    assert CANARY not in caplog.text


def test_a_download_into_the_cache_does_not_show_it_either(cdn: HubServer) -> None:
    repo = HubRepo(REPO, None)
    file = next(file for file in cdn.repos[REPO].commits[repo.commit].files.values() if file.sha256)
    cdn.fail_next(f"{file.etag}/{WEIGHTS}", 403, times=100)
    with pytest.raises(PipelineError) as error:
        repo.fetch([WEIGHTS])
    assert CANARY not in shown(error.value)
