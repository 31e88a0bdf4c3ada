"""What models on the Hub promise: pinned to a commit, and open to whoever may read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from models import cast, random_state
from safetensors.torch import save_file
from servers.hub import HubServer
from storage.hub_models import is_whole, small

from pipeline import compute, inspect, open_checkpoint
from pipeline.errors import AccessError, NotFound
from pipeline.storage import retry

REPO = "org/model"
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def client(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, pointed at the local Hub, and impatient."""
    hub.patch_client(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)


# -- which version ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", [REPO, f"hf://{REPO}", f"{REPO}@main", f"hf://{REPO}@main"])
def test_a_model_is_read_from_the_hub_and_its_commit_recorded(
    hub: HubServer, tmp_path: Path, text: str
) -> None:
    source = small(tmp_path / "source")
    repo = hub.add_repo(REPO, source)
    with open_checkpoint(text) as model:
        assert is_whole(model, source)
        assert model.revision == repo.sha()
        assert model.config is not None
        assert model.config["model_type"] == "llama"


def test_a_revision_may_be_a_branch_a_tag_or_a_commit(hub: HubServer, tmp_path: Path) -> None:
    one, two = small(tmp_path / "one", 1), small(tmp_path / "two", 2)
    repo = hub.add_repo(REPO, one, revisions={"dev/x": two}, tags={"v2": two})
    for revision, folder in (("dev/x", two), ("v2", two), (repo.sha(), one), (repo.sha("v2"), two)):
        with open_checkpoint(f"{REPO}@{revision}") as model:
            assert is_whole(model, folder)
            assert model.revision == repo.sha(revision)


def test_a_branch_that_moves_while_a_model_is_open_changes_nothing(
    hub: HubServer, tmp_path: Path
) -> None:
    one, two = small(tmp_path / "one", 1), small(tmp_path / "two", 2)
    repo = hub.add_repo(REPO, one)
    with open_checkpoint(REPO, headers_only=True) as model:
        repo.set_branch("main", two)
        assert is_whole(model, one)
    with open_checkpoint(REPO) as model:
        assert is_whole(model, two)


def test_a_delta_records_the_commits_of_its_models(hub: HubServer, tmp_path: Path) -> None:
    base = hub.add_repo("org/base", small(tmp_path / "base", 1))
    post = hub.add_repo("org/post", small(tmp_path / "post", 2))
    compute("org/base", "org/post@main", str(tmp_path / "d.safetensors"))
    facts = inspect(str(tmp_path / "d.safetensors")).facts
    assert (facts["base"], facts["base_revision"]) == ("hf://org/base", base.sha())
    assert (facts["post"], facts["post_revision"]) == ("hf://org/post", post.sha())


def test_a_sharded_model_comes_whole_and_nothing_else_does(hub: HubServer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    state = cast(random_state(3))
    names = sorted(state)
    shards = {
        "model-00001-of-00002.safetensors": names[:4],
        "model-00002-of-00002.safetensors": names[4:],
    }
    for shard, held in shards.items():
        save_file({name: state[name] for name in held}, source / shard)
    places = ", ".join(f'"{name}": "{shard}"' for shard, held in shards.items() for name in held)
    (source / "model.safetensors.index.json").write_text('{"weight_map": {%s}}' % places)  # noqa: UP031
    (source / "pytorch_model.bin").write_bytes(b"the same weights in another format")
    hub.add_repo(REPO, source)
    with open_checkpoint(REPO) as model:
        assert is_whole(model, source)
        assert len(model.readers) == 2
    assert not hub.gets("pytorch_model.bin")


# -- access -----------------------------------------------------------------------------------


@pytest.mark.parametrize("headers_only", [False, True])
def test_a_gated_model_without_a_token_says_what_to_do(
    hub: HubServer, tmp_path: Path, headers_only: bool
) -> None:
    hub.add_repo(REPO, small(tmp_path / "source"), gated=True, token="granted")
    with pytest.raises(AccessError, match="HF_TOKEN") as error:
        open_checkpoint(REPO, headers_only=headers_only)
    assert error.value.exit_code == 5
    assert REPO in str(error.value)
    assert not hub.gets(WEIGHTS) or all(request.status in (401, 403) for request in hub.gets())


@pytest.mark.parametrize("headers_only", [False, True])
def test_a_token_from_the_environment_opens_what_it_may(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers_only: bool
) -> None:
    source = small(tmp_path / "source")
    hub.add_repo(REPO, source, gated=True, private=True, token="granted-canary")
    monkeypatch.setenv("HF_TOKEN", "granted-canary")
    with open_checkpoint(REPO, headers_only=headers_only) as model:
        assert is_whole(model, source)
        assert "granted-canary" not in repr(model)


def test_a_refused_token_is_not_shown(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, small(tmp_path / "source"), gated=True, token="granted")
    hub.add_token("strangers-canary")
    for token in ("strangers-canary", "expired-canary"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(AccessError) as error:
            open_checkpoint(REPO)
        assert "canary" not in str(error.value) + repr(error.value)


def test_a_private_or_missing_model_is_not_found(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, small(tmp_path / "source"), private=True, token="owner")
    for name in (REPO, "org/missing"):
        with pytest.raises(NotFound, match=name) as error:
            open_checkpoint(name)
        assert "HF_TOKEN" in str(error.value)


def test_a_missing_revision_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, small(tmp_path / "source"))
    for revision in ("nope", "0" * 40):
        with pytest.raises(NotFound, match=revision):
            open_checkpoint(f"{REPO}@{revision}")


def test_a_token_is_not_sent_on_to_where_the_hub_redirects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = small(tmp_path / "source")
    with HubServer(cdn=True) as hub:
        hub.patch_client(monkeypatch, tmp_path / "elsewhere")
        hub.add_repo(REPO, source, token="granted")
        monkeypatch.setenv("HF_TOKEN", "granted")
        for headers_only in (True, False):
            with open_checkpoint(REPO, headers_only=headers_only) as model:
                assert is_whole(model, source)
    from_cdn = [request for request in hub.requests if request.cdn]
    assert from_cdn
    assert not any(request.authorized for request in from_cdn)
