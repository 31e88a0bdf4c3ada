"""What the local Hub and Azurite promise to the other tests, shown with the real clients."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.storage.blob import BlobBlock, BlobClient, BlobServiceClient
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from safetensors.torch import load_file, save_file
from servers.azurite import Azurite, AzuriteError
from servers.hub import HubServer

REPO = "org/model"
WEIGHTS = "model.safetensors"


def write_model(folder: Path, *, value: float = 1.0, rows: int = 64) -> Path:
    """A folder with a config and one safetensors file of rows × 64 floats."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "value": value}))
    save_file({"w": torch.full((rows, 64), value)}, folder / WEIGHTS)
    return folder


def write_sharded_model(folder: Path) -> Path:
    """A folder with two shards in a subfolder-free layout, an index, and a nested file."""
    folder.mkdir()
    (folder / "extra").mkdir()
    (folder / "extra" / "notes.txt").write_text("nested")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for number, (name, shard) in enumerate(shards.items()):
        save_file({name: torch.full((32, 64), float(number))}, folder / shard)
    index = {"metadata": {"total_size": 2 * 32 * 64 * 4}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """A plain GET, with no client library between the test and the server."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


# -- the Hub: content -------------------------------------------------------------------------


def test_a_snapshot_of_a_sharded_repository_has_every_file_once(hub: HubServer, tmp_path: Path) -> None:
    source = write_sharded_model(tmp_path / "source")
    repo = hub.add_repo(REPO, source)
    path = snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path / "cache")
    assert digests(Path(path)) == digests(source)
    assert Path(path).name == repo.sha()
    assert sorted(request.path for request in hub.gets()) == sorted(
        f"/{REPO}/resolve/{repo.sha()}/{name}" for name in digests(source)
    )
    sizes = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
    assert sum(request.sent for request in hub.gets()) == sizes


def test_a_commit_sha_depends_on_content_only(hub: HubServer, tmp_path: Path) -> None:
    one, two, other = (
        write_model(tmp_path / name, value=value)
        for name, value in (("one", 1.0), ("two", 1.0), ("other", 2.0))
    )
    repo = hub.add_repo(REPO, one, revisions={"same": two, "other": other})
    assert len(repo.sha()) == 40
    assert repo.sha("same") == repo.sha("main") != repo.sha("other")


def test_a_resolved_commit_stays_when_its_branch_moves(hub: HubServer, tmp_path: Path) -> None:
    old = write_model(tmp_path / "old", value=1.0)
    new = write_model(tmp_path / "new", value=2.0)
    repo = hub.add_repo(REPO, old, tags={"v1": "main"})
    api = HfApi(endpoint=hub.url)
    pinned = api.model_info(REPO).sha
    repo.set_branch("main", new)
    assert api.model_info(REPO).sha == repo.sha("main") != pinned
    assert api.model_info(REPO, revision="v1").sha == pinned

    def weight(revision: str) -> float:
        path = hf_hub_download(
            REPO, WEIGHTS, revision=revision, endpoint=hub.url, cache_dir=tmp_path / "cache"
        )
        return float(load_file(path)["w"][0, 0])

    assert pinned is not None
    assert (weight(pinned), weight("v1"), weight("main")) == (1.0, 1.0, 2.0)


def test_listings_have_sizes_and_lfs_digests(hub: HubServer, tmp_path: Path) -> None:
    source = write_sharded_model(tmp_path / "source")
    hub.add_repo(REPO, source, revisions={"a/b": source})
    api = HfApi(endpoint=hub.url)
    shard = "model-00001-of-00002.safetensors"
    sha256 = digests(source)[shard]
    siblings = api.model_info(REPO, revision="a/b", files_metadata=True).siblings or []
    sibling = {item.rfilename: item for item in siblings}[shard]
    assert sibling.lfs is not None
    assert (sibling.size, sibling.lfs.sha256) == ((source / shard).stat().st_size, sha256)
    entries = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True)}
    assert entries.keys() == {*digests(source), "extra"}
    entry = entries[shard]
    assert isinstance(entry, RepoFile) and entry.lfs and entry.lfs.sha256 == sha256
    assert [item.path for item in api.list_repo_tree(REPO, "extra")] == ["extra/notes.txt"]
    found = api.get_paths_info(REPO, [shard, "extra", "missing"])
    assert [item.path for item in found] == [shard, "extra"]
    assert {ref.name for ref in api.list_repo_refs(REPO).branches} == {"main", "a/b"}


def test_a_second_download_fetches_no_body(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, write_model(tmp_path / "source"))
    for _ in range(2):
        hf_hub_download(REPO, WEIGHTS, endpoint=hub.url, cache_dir=tmp_path / "cache")
    assert [(r.method, r.status) for r in hub.requests if r.path.endswith(WEIGHTS)] == [
        ("HEAD", 200),
        ("GET", 200),
        ("HEAD", 200),
    ]


def test_unchanged_content_in_a_new_commit_is_not_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    repo = hub.add_repo(REPO, write_model(tmp_path / "old"))
    cache = tmp_path / "cache"
    snapshot_download(REPO, endpoint=hub.url, cache_dir=cache)
    newer = write_model(tmp_path / "new")
    (newer / "README.md").write_text("now with a readme")
    repo.set_branch("main", newer)
    hub.requests.clear()
    snapshot_download(REPO, endpoint=hub.url, cache_dir=cache)
    assert [Path(request.path).name for request in hub.gets()] == ["README.md"]


def test_a_source_that_changes_after_its_commit_is_an_error(hub: HubServer, tmp_path: Path) -> None:
    source = write_model(tmp_path / "source")
    hub.add_repo(REPO, source)
    (source / "config.json").write_text("{}")
    status, _, _ = fetch(f"{hub.url}/{REPO}/resolve/main/config.json")
    assert status == 500


# -- the Hub: access --------------------------------------------------------------------------


def test_a_gated_repository_needs_a_granted_token(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, write_model(tmp_path / "source"), gated=True, token="granted")
    hub.add_token("a stranger's")

    def download(token: str | bool) -> str:
        return hf_hub_download(
            REPO, WEIGHTS, token=token, endpoint=hub.url, cache_dir=tmp_path / "cache"
        )

    for token, status in ((False, 401), ("a stranger's", 403)):
        with pytest.raises(GatedRepoError) as error:
            download(token)
        assert error.value.response.status_code == status
        with pytest.raises(GatedRepoError):
            snapshot_download(REPO, token=token, endpoint=hub.url, cache_dir=tmp_path / "cache")
        info = HfApi(endpoint=hub.url, token=token).model_info(REPO)
        assert info.gated == "manual"
    assert not hub.gets()
    download("granted")
    assert [request.authorized for request in hub.gets()] == [True]
    assert "granted" not in repr(hub.requests)


def test_a_private_repository_looks_missing_without_its_token(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, write_model(tmp_path / "source"), private=True, token="owner")
    hub.add_token("a stranger's")
    for token in (False, "a stranger's"):
        for name in (REPO, "org/missing"):
            with pytest.raises(RepositoryNotFoundError) as error:
                HfApi(endpoint=hub.url, token=token).model_info(name)
            assert not isinstance(error.value, GatedRepoError)
            assert error.value.response.status_code == (404 if token else 401)
    assert HfApi(endpoint=hub.url, token="owner").model_info(REPO).private


def test_an_unknown_token_is_refused_even_for_a_public_repository(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.add_repo(REPO, write_model(tmp_path / "source"))
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as error:
        HfApi(endpoint=hub.url, token="expired").model_info(REPO)
    assert not isinstance(error.value, RepositoryNotFoundError)


def test_missing_repositories_revisions_and_files_are_told_apart(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, write_model(tmp_path / "source"))
    where: dict[str, Any] = {"endpoint": hub.url, "cache_dir": tmp_path / "cache"}
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download("org/missing", **where)
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("org/missing", WEIGHTS, **where)
    with pytest.raises(RevisionNotFoundError):
        snapshot_download(REPO, revision="missing", **where)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, WEIGHTS, revision="0" * 40, **where)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "missing.json", **where)


# -- the Hub: ranges and faults ---------------------------------------------------------------


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
def test_transformers_loads_a_model_in_a_program_of_its_own(hub: HubServer, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

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
    program = (
        "import sys; from transformers import AutoModelForCausalLM as Auto\n"
        "model = Auto.from_pretrained(sys.argv[1], revision=sys.argv[2])\n"
        "print(sum(p.numel() for p in model.parameters()))"
    )
    environment = {**os.environ, **hub.env(tmp_path / "home"), "HF_TOKEN": "granted"}
    result = subprocess.run(
        [sys.executable, "-c", program, REPO, repo.sha()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == LlamaForCausalLM(config).num_parameters()
    shards = [request.path for request in hub.gets(".safetensors")]
    assert len(shards) == len(set(shards)) > 1
    assert all(request.authorized for request in hub.requests if REPO in request.path)


# -- Azurite ----------------------------------------------------------------------------------


def test_a_block_blob_comes_back_as_it_was_sent(azurite: Azurite) -> None:
    content = os.urandom(3 << 20)
    container = azurite.create_container()
    blob = container.get_blob_client("deltas/one.bin")
    blocks = ["0000", "0001", "0002"]
    for number, block in enumerate(blocks):
        blob.stage_block(block, content[number << 20 : (number + 1) << 20])
    blob.commit_block_list(
        [BlobBlock(block) for block in blocks],
        metadata={"sha256": hashlib.sha256(content).hexdigest()},
    )
    assert blob.download_blob().readall() == content
    assert blob.download_blob(offset=1 << 20, length=5).readall() == content[1 << 20 :][:5]
    properties = blob.get_blob_properties()
    assert properties.metadata == {"sha256": hashlib.sha256(content).hexdigest()}


def test_a_blob_that_must_be_new_conflicts_with_one_that_is_there(azurite: Azurite) -> None:
    container = azurite.create_container()
    container.upload_blob("once", b"first", if_none_match="*")
    with pytest.raises(ResourceExistsError) as error:
        container.upload_blob("once", b"second", if_none_match="*")
    assert error.value.error_code == "BlobAlreadyExists"  # type: ignore[attr-defined]
    assert container.download_blob("once").readall() == b"first"


def test_every_way_in_opens_the_same_account(azurite: Azurite) -> None:
    container = azurite.create_container()
    container.upload_blob("blob", b"content")
    name = container.container_name
    ways = [
        BlobServiceClient.from_connection_string(azurite.connection_string),
        BlobServiceClient(azurite.url, credential=AzureSasCredential(azurite.sas_token("rl"))),
        BlobServiceClient(f"{azurite.url}?{azurite.sas_token('rl')}"),
    ]
    for way in ways:
        assert way.get_blob_client(name, "blob").download_blob().readall() == b"content"
    assert azurite.client(name).download_blob("blob").readall() == b"content"


def test_a_sas_grants_its_permissions_and_no_more(azurite: Azurite) -> None:
    name = azurite.create_container().container_name
    blob = BlobClient(azurite.url, name, "blob", credential=AzureSasCredential(azurite.sas_token("r")))
    with pytest.raises(HttpResponseError) as error:
        blob.upload_blob(b"content")
    assert error.value.status_code == 403


def test_azurite_ends_with_the_process_that_started_it() -> None:
    program = (
        "import os, signal; from servers.azurite import Azurite\n"
        "print(Azurite().__enter__().url, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    url = result.stdout.strip()
    assert url.startswith("http://"), result.stderr
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            fetch(url)
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail("Azurite outlived its parent")


def test_a_missing_azurite_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURITE_HOME", str(tmp_path))
    with pytest.raises(AzuriteError, match="make setup"):
        Azurite().__enter__()
