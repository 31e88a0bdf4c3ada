"""Where the Hub sends us to another host: its signed address is used again, and nobody ever sees it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from servers.hub import HubServer
from servers.hub_repos import HubFile
from storage.hub.helpers import REPO, WEIGHTS, content, shown, swap, weights

from pipeline.errors import CorruptFile, PipelineError, Unreachable
from pipeline.redaction import redacting
from pipeline.storage.hub.models import HubRepo

CANARY = "canary"


def resolved(hub: HubServer) -> int:
    """How often the Hub was asked where the bytes are."""
    return sum(not request.cdn and request.path.endswith(WEIGHTS) for request in hub.requests)


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
