"""What the local Hub promises to the other tests, shown with the real client: content and access."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from repository import REPO, WEIGHTS, digests, fetch, write_model, write_sharded_model
from safetensors.torch import load_file
from servers.hub import HubServer

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
