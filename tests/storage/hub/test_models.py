"""What models on the Hub promise: pinned to a commit, and open to whoever may read them."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from conftest import Cli
from huggingface_hub import constants
from models import cast, random_state
from safetensors.torch import save_file
from servers.hub import HubServer
from storage.hub.helpers import REPO, WEIGHTS, is_whole, small

from pipeline import compute, inspect, open_checkpoint
from pipeline.errors import AccessError, NotFound, UsageError
from pipeline.settings import Settings

pytestmark = pytest.mark.usefixtures("client")


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
    with pytest.raises(AccessError, match="is gated: its owner must grant") as error:
        open_checkpoint(REPO, headers_only=headers_only)
    assert error.value.exit_code == 5
    for part in (REPO, f"{hub.url}/{REPO}", "HF_TOKEN", "hf auth login"):
        assert part in str(error.value)
    assert not hub.gets(WEIGHTS) or all(request.status in (401, 403) for request in hub.gets())


def test_a_gated_model_whose_owner_has_not_granted_access_says_so(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, small(tmp_path / "source"), gated=True, token="granted")
    hub.add_token("stranger")
    monkeypatch.setenv("HF_TOKEN", "stranger")
    with pytest.raises(AccessError, match="owner has not granted access") as error:
        open_checkpoint(REPO)
    assert f"ask for access at {hub.url}/{REPO}" in str(error.value)


@pytest.mark.parametrize("where", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", ".env", "hf auth login"])
@pytest.mark.parametrize("cache", ["off", "on"])
def test_a_token_opens_what_it_may_wherever_it_is_kept(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, cache: str
) -> None:
    source = small(tmp_path / "source")
    hub.add_repo(REPO, source, gated=True, private=True, token="granted-canary")
    monkeypatch.chdir(tmp_path)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name)
    match where:
        case ".env":
            (tmp_path / ".env").write_text("HF_TOKEN=granted-canary")
        case "hf auth login":
            Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True, exist_ok=True)
            Path(constants.HF_TOKEN_PATH).write_text("granted-canary")
        case name:
            monkeypatch.setenv(name, "granted-canary")
    with open_checkpoint(REPO, settings=Settings.load(hub_cache=cache)) as model:
        assert is_whole(model, source)
        assert "granted-canary" not in repr(model)


def test_a_token_that_the_hub_does_not_know_is_called_refused(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even for a public model, and even for one that is missing."""
    hub.add_repo(REPO, small(tmp_path / "source"))
    monkeypatch.setenv("HF_TOKEN", "expired-canary")
    for name in (REPO, "org/missing"):
        with pytest.raises(AccessError, match="refused the token") as error:
            open_checkpoint(name)
        assert f"{hub.url}/settings/tokens" in str(error.value)


def test_a_refused_token_is_not_shown(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repo(REPO, small(tmp_path / "source"), gated=True, token="granted")
    hub.add_token("strangers-canary")
    for token in ("strangers-canary", "expired-canary"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(AccessError) as error:
            open_checkpoint(REPO)
        assert "canary" not in "".join(traceback.format_exception(error.value)) + repr(error.value)


def test_a_private_or_missing_model_is_not_found(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub does not tell which of the two it is; what to do next depends on the token."""
    hub.add_repo(REPO, small(tmp_path / "source"), private=True, token="owner")
    hub.add_token("stranger")
    for token, says in ((None, "for a private one set HF_TOKEN"), ("stranger", "does not reach it")):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        for name in (REPO, "org/missing"):
            with pytest.raises(NotFound, match=name) as error:
                open_checkpoint(name)
            assert "HF_TOKEN" in str(error.value)
            assert "check the spelling" in str(error.value)
            assert says in str(error.value)


def test_a_missing_revision_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, small(tmp_path / "source"))
    for revision in ("nope", "0" * 40):
        with pytest.raises(NotFound, match="no such revision") as error:
            open_checkpoint(f"{REPO}@{revision}")
        assert revision in str(error.value)
        assert f"{hub.url}/{REPO}/tree/main" in str(error.value)


def test_what_can_not_be_a_repositorys_name_is_a_mistake_of_usage(hub: HubServer) -> None:
    with pytest.raises(UsageError, match="name"):
        open_checkpoint("org/a--b")


@pytest.mark.parametrize("cache", ["off", "on"])
def test_a_model_that_was_renamed_is_read_and_its_new_name_told(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, cache: str
) -> None:
    source = small(tmp_path / "source")
    hub.add_repo(REPO, source)
    hub.rename(REPO, "new-org/new-name")
    with open_checkpoint(REPO, settings=Settings.load(hub_cache=cache)) as model:
        assert is_whole(model, source)
    assert "hf://org/model is called hf://new-org/new-name now" in caplog.text
    caplog.clear()
    with open_checkpoint("new-org/new-name") as model:
        assert is_whole(model, source)
    assert not caplog.records


# -- which Hub --------------------------------------------------------------------------------


def test_the_environments_endpoint_is_asked(cli: Cli, hub: HubServer, tmp_path: Path) -> None:
    hub.add_repo(REPO, small(tmp_path / "source"))
    done = cli("inspect", REPO, env=hub.env(tmp_path / "home"))
    assert done.returncode == 0, done.stderr


def test_the_environments_proxy_is_used(cli: Cli, hub: HubServer, tmp_path: Path) -> None:
    """The local Hub answers as a proxy would, for a host that there is not."""
    for name in ("base", "post"):
        hub.add_repo(f"org/{name}", small(tmp_path / name))
    env = {**hub.env(tmp_path / "home"), "HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": hub.url}
    env |= {"http_proxy": hub.url, "NO_PROXY": "", "no_proxy": ""}
    arguments = ("--base", "org/base", "--post", "org/post", "--output", "d", "--hub-cache", "off")
    done = cli("compute", *arguments, env=env)
    assert done.returncode == 0, done.stderr
    assert hub.gets(WEIGHTS)


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
