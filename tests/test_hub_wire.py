"""What the local Hub promises of ranges, of what fails on the way, and of programs that use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    LocalEntryNotFoundError,
)
from repository import REPO, WEIGHTS, digests, fetch, write_model
from servers.hub import HubServer


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "body"),
    [
        ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=5-999", 206, "bytes 5-9/10", b"56789"),
        ("bytes=10-", 416, "bytes */10", None),
        ("bytes=0-1,3-4", 200, None, b"0123456789"),
    ],
)
def test_a_range_gets_exactly_its_bytes(
    hub: HubServer,
    tmp_path: Path,
    asked: str,
    status: int,
    content_range: str | None,
    body: bytes | None,
) -> None:
    (tmp_path / "digits.txt").write_bytes(b"0123456789")
    hub.add_repo(REPO, tmp_path)
    got = fetch(f"{hub.url}/{REPO}/resolve/main/digits.txt", Range=asked)
    assert (got[0], got[1].get("Content-Range")) == (status, content_range)
    if body is not None:
        assert got[2] == body
        assert (hub.requests[-1].range, hub.requests[-1].sent) == (asked, len(body))


def test_a_range_is_conditional_on_the_etag(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "digits.txt").write_bytes(b"0123456789")
    hub.add_repo(REPO, tmp_path)
    url = f"{hub.url}/{REPO}/resolve/main/digits.txt"
    etag = fetch(url)[1]["ETag"]
    some = {"Range": "bytes=2-4"}
    assert fetch(url, **some, **{"If-Range": etag})[0] == 206
    assert fetch(url, **some, **{"If-Range": '"another"'})[0] == 200
    assert fetch(url, **some, **{"If-Match": etag})[0] == 206
    assert fetch(url, **some, **{"If-Match": '"another"'})[0] == 412
    assert fetch(url, **{"If-None-Match": etag})[0] == 304


def test_safetensors_metadata_comes_by_ranges(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, write_model(tmp_path / "source", rows=4096))  # 1 MiB
    hub.patch_client(monkeypatch, tmp_path / "home")
    metadata = huggingface_hub.get_safetensors_metadata(REPO)
    assert metadata.files_metadata[WEIGHTS].tensors["w"].shape == [4096, 64]
    assert [(r.range, r.status, r.sent) for r in hub.gets(WEIGHTS)] == [("bytes=0-100000", 206, 100_001)]


def test_an_interrupted_download_resumes_with_a_range(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_model(tmp_path / "source", rows=4096)
    hub.add_repo(REPO, source)
    size = (source / WEIGHTS).stat().st_size
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64 * 1024)
    hub.cut_next(WEIGHTS, after_bytes=300_000)
    path = hf_hub_download(REPO, WEIGHTS, endpoint=hub.url, cache_dir=tmp_path / "cache")
    assert Path(path).read_bytes() == (source / WEIGHTS).read_bytes()
    kept = 300_000 // 65536 * 65536  # the client forgets an unfinished piece
    assert [(r.range, r.status, r.sent) for r in hub.gets(WEIGHTS)] == [
        (None, 200, 300_000),
        (f"bytes={kept}-", 206, size - kept),
    ]


def test_a_reset_connection_is_not_resumed_by_the_client(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, write_model(tmp_path / "source", rows=4096))
    hub.cut_next(WEIGHTS, after_bytes=300_000, reset=True)
    where: dict[str, Any] = {"endpoint": hub.url, "cache_dir": tmp_path / "cache"}
    with pytest.raises(Exception, match=r"(?i)reset"):
        hf_hub_download(REPO, WEIGHTS, **where)
    assert len(hub.gets(WEIGHTS)) == 1
    hf_hub_download(REPO, WEIGHTS, **where)


def test_an_asked_for_failure_happens_as_often_as_asked(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, write_model(tmp_path / "source"))
    hub.fail_next("config.json", 503, times=2, retry_after=1)
    url = f"{hub.url}/{REPO}/resolve/main/config.json"
    answers = [fetch(url) for _ in range(3)]
    assert [status for status, _, _ in answers] == [503, 503, 200]
    assert answers[0][1]["Retry-After"] == "1"


def test_lfs_files_come_from_the_cdn_without_the_token(tmp_path: Path) -> None:
    source = write_model(tmp_path / "source")
    with HubServer(cdn=True) as hub:
        hub.add_repo(REPO, source, token="granted")
        path = snapshot_download(REPO, token="granted", endpoint=hub.url, cache_dir=tmp_path / "cache")
    assert digests(Path(path)) == digests(source)
    assert {Path(r.path).name: (r.cdn, r.authorized) for r in hub.gets()} == {
        "config.json": (False, True),
        WEIGHTS: (True, False),
    }


def test_a_stopped_hub_is_down_even_for_open_connections(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, write_model(tmp_path / "source"))
    where: dict[str, Any] = {"endpoint": hub.url, "cache_dir": tmp_path / "cache"}
    path = snapshot_download(REPO, **where)
    hub.stop()
    assert snapshot_download(REPO, **where) == path  # from the cache
    with pytest.raises(LocalEntryNotFoundError):
        snapshot_download("org/other", **where)


@pytest.mark.slow
def test_transformers_loads_a_model(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    source = tmp_path / "source"
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=32,
    )
    LlamaForCausalLM(config).save_pretrained(source, max_shard_size="4KB")
    repo = hub.add_repo(REPO, source, gated=True, token="granted")
    hub.patch_client(monkeypatch, tmp_path / "home")
    monkeypatch.setenv("HF_TOKEN", "granted")
    model = AutoModelForCausalLM.from_pretrained(REPO, revision=repo.sha())
    assert model.num_parameters() == LlamaForCausalLM(config).num_parameters()
    shards = [request.path for request in hub.gets(".safetensors")]
    assert len(shards) == len(set(shards)) > 1
    assert all(request.authorized for request in hub.requests if REPO in request.path)
