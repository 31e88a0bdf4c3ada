"""What downloads from the Hub promise: resumed, cached, and by range where that is enough."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download
from models import read_model
from servers.hub import HubServer
from storage.hub.helpers import REPO, WEIGHTS, bytes_of, is_whole, large, raw, small

from pipeline import compute, inspect, open_checkpoint
from pipeline.errors import AccessError, NotFound, PipelineError
from pipeline.settings import Settings

pytestmark = pytest.mark.usefixtures("client")


# -- broken downloads -------------------------------------------------------------------------


def test_an_interrupted_download_is_resumed(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = large(tmp_path / "source")
    hub.add_repo(REPO, source)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64 << 10)
    hub.cut_next(WEIGHTS, after_bytes=1_000_000)
    with open_checkpoint(REPO) as model:
        assert is_whole(model, source)
    kept = 1_000_000 // (64 << 10) * (64 << 10)
    assert [request.range for request in hub.gets(WEIGHTS)] == [None, f"bytes={kept}-"]


def test_a_reset_connection_is_tried_again(hub: HubServer, tmp_path: Path) -> None:
    source = large(tmp_path / "source")
    hub.add_repo(REPO, source)
    hub.cut_next(WEIGHTS, after_bytes=1_000_000, reset=True, times=2)
    with open_checkpoint(REPO) as model:
        assert is_whole(model, source)
    assert len(hub.gets(WEIGHTS)) == 3


@pytest.mark.parametrize("status", [500, 503, 429])
@pytest.mark.parametrize("headers_only", [False, True])
def test_a_passing_failure_is_tried_again(
    hub: HubServer, tmp_path: Path, status: int, headers_only: bool
) -> None:
    source = small(tmp_path / "source")
    hub.add_repo(REPO, source)
    hub.fail_next(f"/api/models/{REPO}", status, times=1)
    hub.fail_next(WEIGHTS, status, times=1 if status == 429 else 2)  # the client waits 1 s for each 429
    with open_checkpoint(REPO, headers_only=headers_only) as model:
        assert is_whole(model, source)


@pytest.mark.parametrize("reset", [False, True])
def test_a_range_that_breaks_off_is_read_again(hub: HubServer, tmp_path: Path, reset: bool) -> None:
    source = large(tmp_path / "source")
    hub.add_repo(REPO, source)
    with open_checkpoint(REPO, headers_only=True) as model:
        hub.cut_next(WEIGHTS, after_bytes=1_000_000, reset=reset)
        assert is_whole(model, source)


def test_a_hub_that_is_down_is_an_error_of_ours(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, small(tmp_path / "source"))
    hub.stop()
    with pytest.raises(AccessError, match="HF_ENDPOINT") as error:
        open_checkpoint(REPO)
    assert error.value.exit_code == 5


# -- cache and ranges -------------------------------------------------------------------------


def test_a_second_run_downloads_nothing(hub: HubServer, tmp_path: Path) -> None:
    source = small(tmp_path / "source")
    hub.add_repo(REPO, source)
    open_checkpoint(REPO).close()
    hub.requests.clear()
    for headers_only in (False, True):
        with open_checkpoint(REPO, headers_only=headers_only) as model:
            assert is_whole(model, source)
    assert not hub.gets()


@pytest.mark.parametrize("revision", ["", "@main", "@sha"])
def test_offline_a_cached_model_is_read_from_the_cache(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    source = small(tmp_path / "source")
    sha = hub.add_repo(REPO, source).sha()
    open_checkpoint(REPO).close()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with open_checkpoint(REPO + revision.replace("sha", sha)) as model:
        assert is_whole(model, source)
        assert model.revision == sha
    assert not hub.requests


@pytest.mark.parametrize("revision", ["", "@main", "@sha"])
@pytest.mark.parametrize("status", [None, 503])
def test_while_the_hub_is_down_a_cached_model_is_read_from_the_cache(
    hub: HubServer, tmp_path: Path, revision: str, status: int | None
) -> None:
    """As the client does: nobody has to know that it is down, and to say so."""
    source = small(tmp_path / "source")
    sha = hub.add_repo(REPO, source).sha()
    open_checkpoint(REPO).close()
    if status:
        hub.fail_next("", status, times=1000, method=None)
    else:
        hub.stop()
    with open_checkpoint(REPO + revision.replace("sha", sha)) as model:
        assert is_whole(model, source)
        assert model.revision == sha


def test_a_hub_that_fails_for_a_moment_is_asked_again_and_not_the_cache(
    hub: HubServer, tmp_path: Path
) -> None:
    """The cache may have an older commit of the branch."""
    repo = hub.add_repo(REPO, small(tmp_path / "old"))
    open_checkpoint(REPO).close()
    repo.set_branch("main", small(tmp_path / "new", seed=2))
    hub.fail_next(f"/api/models/{REPO}", 503, times=2)
    with open_checkpoint(REPO) as model:
        assert model.revision == repo.sha()


def test_offline_a_model_is_read_that_another_tool_has_fetched_in_part(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small(tmp_path / "source")
    (source / "big.gguf").write_bytes(b"not wanted")
    hub.add_repo(REPO, source)
    snapshot_download(REPO, allow_patterns=["*.json", "*.safetensors"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with open_checkpoint(REPO) as model:
        assert is_whole(model, source)


def test_offline_a_model_that_is_not_cached_says_so(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, small(tmp_path / "source"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotFound, match="HF_HUB_OFFLINE"):
        open_checkpoint(REPO)


def test_offline_a_cache_without_the_weights_says_so(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted first run leaves the config there and the weights not."""
    hub.add_repo(REPO, small(tmp_path / "source"))
    open_checkpoint(REPO).close()
    for link in (tmp_path / "home").rglob(WEIGHTS):
        link.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PipelineError) as error:
        open_checkpoint(REPO)
    assert REPO in str(error.value)


def test_inspecting_reads_the_header_and_never_the_weights(hub: HubServer, tmp_path: Path) -> None:
    source = large(tmp_path / "source")
    hub.add_repo(REPO, source)
    found = inspect(REPO)
    assert (found.elements, found.facts["files"]) == (1 << 20, 1)
    assert sum(request.sent for request in hub.gets(WEIGHTS)) <= 2 * (256 << 10)  # read twice
    assert all(request.range for request in hub.gets(WEIGHTS))
    assert not any("blobs" in name for _, folders, _ in os.walk(tmp_path / "home") for name in folders)


def test_a_dry_run_downloads_no_weights(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("org/base", large(tmp_path / "base"))
    hub.add_repo("org/post", large(tmp_path / "post"))
    report = compute("org/base", "org/post", str(tmp_path / "d.safetensors"), dry_run=True)
    assert report.dry_run
    assert sum(request.sent for request in hub.gets(WEIGHTS)) <= 2 * (512 << 10)  # read twice
    assert not (tmp_path / "d.safetensors").exists()


def test_an_output_that_is_taken_is_noticed_before_the_download(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo("org/base", large(tmp_path / "base"))
    hub.add_repo("org/post", large(tmp_path / "post"))
    (tmp_path / "d.safetensors").write_bytes(b"old")
    with pytest.raises(PipelineError, match="exists"):
        compute("org/base", "org/post", str(tmp_path / "d.safetensors"))
    assert not [request for request in hub.gets(WEIGHTS) if not request.range]


def test_weights_read_by_range_are_those_of_the_cache(hub: HubServer, tmp_path: Path) -> None:
    source = small(tmp_path / "source")
    hub.add_repo(REPO, source)
    with open_checkpoint(REPO, headers_only=True) as by_range, open_checkpoint(REPO) as cached:
        for name, tensor in read_model(source).items():
            assert bytes_of(by_range, name) == bytes_of(cached, name) == raw(tensor)


# -- kept or not ------------------------------------------------------------------------------


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
