"""What the local Hub promises where it is written to, and where its addresses expire or move."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from servers.hub import HubServer

REPO = "org/model"


def folder(path: Path) -> Path:
    path.mkdir()
    (path / "model.safetensors").write_bytes(bytes(range(256)) * 8)
    (path / "config.json").write_text("{}")
    return path


def test_the_clients_own_upload_of_a_folder_makes_one_commit(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.patch_client(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.add_token("writer", write=True)
    api, source = HfApi(endpoint=hub.url, token="writer"), folder(tmp_path / "source")
    api.create_repo(REPO)
    made = api.upload_folder(repo_id=REPO, folder_path=source)
    info = api.model_info(REPO, files_metadata=True)
    assert info.sha == made.oid
    assert {s.rfilename for s in info.siblings or ()} == {
        ".gitattributes", "model.safetensors", "config.json",
    }  # fmt: skip
    path = hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path / "cache", endpoint=hub.url)
    assert Path(path).read_bytes() == (source / "model.safetensors").read_bytes()


def test_a_token_that_may_only_read_creates_nothing(hub: HubServer) -> None:
    hub.add_token("reader")
    with pytest.raises(HfHubHTTPError) as error:
        HfApi(endpoint=hub.url, token="reader").create_repo(REPO)
    assert error.value.response.status_code == 403
    assert not hub.repos


def test_a_signed_address_is_good_until_signatures_expire(tmp_path: Path) -> None:
    with HubServer(cdn=True) as hub:
        repo = hub.add_repo(REPO, folder(tmp_path / "source"))
        signed = hub.cdn_location(repo.commits[repo.sha()].files["model.safetensors"])
        with urllib.request.urlopen(signed) as answer:
            assert len(answer.read()) == 2048
        hub.expire_signatures()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(signed)


def test_a_renamed_repository_is_reached_by_its_old_name(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, folder(tmp_path / "source"))
    hub.rename(REPO, "org/other")
    api = HfApi(endpoint=hub.url)
    assert api.model_info(REPO).id == api.model_info("org/other").id == "org/other"
