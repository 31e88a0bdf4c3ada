"""Outputs that go to the Hub too: complete, with a card, and never at the expense of what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from adapters.making import hand_made
from clouds import Cloud
from conftest import Cli
from huggingface_hub import ModelCard, snapshot_download
from keys import make_pair
from operations.conftest import Family
from servers.hub import HubServer

from pipeline import apply, compute, inspect, push, verify
from pipeline.errors import AccessError, NotACheckpoint, OutputExists, PipelineError, UsageError
from pipeline.storage import retry

TOKEN = "hf_writer_canary"
REPO = "org/result"


@pytest.fixture(autouse=True)
def client(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client with a token that may write, pointed at the local Hub, and impatient."""
    hub.patch_client(monkeypatch, tmp_path / "home")
    hub.add_token(TOKEN, write=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.01)


@pytest.fixture
def delta(family: Family) -> str:
    """A delta of the family that is not pushed."""
    compute(family.base, family.post, str(family.folder / "d.safetensors"))
    return str(family.folder / "d.safetensors")


def held(hub: HubServer, repo: str = REPO, branch: str = "main") -> dict[str, bytes]:
    found = hub.repos[repo]
    files = found.commits[found.sha(branch)].files
    return {name: file.source.read_bytes() for name, file in files.items() if name != ".gitattributes"}


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_delta_goes_to_the_hub_with_its_signature_and_a_card(
    hub: HubServer, family: Family, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, "ed25519")
    for name in ("base", "post"):
        hub.add_repo(f"org/{name}", family.folder / name)
    report = compute(
        "org/base", "org/post", "deltas/d.safetensors", store=str(tmp_path / "store"),
        sign_key=str(pair.private), push_to_hub=REPO,
    )  # fmt: skip
    local = tmp_path / "store" / "deltas" / "d.safetensors"
    found = held(hub)
    assert report.pushed == f"{hub.url}/{REPO}/commit/{hub.repos[REPO].sha()}"
    assert found.keys() == {"d.safetensors", "d.safetensors.sig", "README.md"}
    assert found["d.safetensors"] == local.read_bytes()
    assert len(hub.repos[REPO].messages) == 1
    card = ModelCard(found["README.md"].decode())
    assert card.data.base_model == ["org/base"]
    for part in (hub.repos["org/base"].sha(), str(report.fingerprint), "org/post", "d.safetensors"):
        assert part in card.text
    assert TOKEN not in repr(report) + card.content
    downloaded = snapshot_download(REPO)
    assert verify(f"{downloaded}/d.safetensors", key=str(pair.public)).signed_by
    apply("org/base", [f"{downloaded}/d.safetensors"], str(tmp_path / "restored"))


def test_a_model_goes_to_the_hub_whole(hub: HubServer, family: Family, delta: str) -> None:
    out = family.folder / "out"
    report = apply(family.new_base, [delta], str(out), shard_size="4KB", push_to_hub=REPO, private=True)
    assert held(hub) == files_of(out)
    assert set(report.files) == held(hub).keys()
    assert hub.repos[REPO].private
    assert verify(REPO).fingerprint == report.fingerprint


def test_a_model_in_a_container_goes_to_the_hub_from_there(
    hub: HubServer, family: Family, delta: str, cloud: Cloud
) -> None:
    report = apply(family.new_base, [delta], f"{cloud.location}/out", push_to_hub=REPO)
    assert held(hub) == {name: cloud.read(f"out/{name}") for name in report.files}


def test_what_says_where_a_model_is_from_does_not_depend_on_its_push(
    family: Family, delta: str, tmp_path: Path
) -> None:
    apply(family.new_base, [delta], str(tmp_path / "a"))
    apply(family.new_base, [delta], str(tmp_path / "b"), push_to_hub=REPO)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_model_never_lands_among_the_weights_of_another(
    hub: HubServer, family: Family, delta: str, tmp_path: Path
) -> None:
    apply(family.new_base, [delta], str(tmp_path / "a"), push_to_hub=REPO)
    with pytest.raises(OutputExists, match="--overwrite"):
        apply(family.new_base, [delta], str(tmp_path / "b"), shard_size="4KB", push_to_hub=REPO)
    assert held(hub) == files_of(tmp_path / "a")
    push(str(tmp_path / "b"), REPO, overwrite=True)
    assert held(hub) == files_of(tmp_path / "b")


def test_a_push_that_fails_leaves_the_output_and_says_how_to_push_it_again(
    hub: HubServer, family: Family, cli: Cli, tmp_path: Path
) -> None:
    hub.fail_next("/commit/dev", 400, method="POST")
    out = str(family.folder / "d.safetensors")
    with pytest.raises(PipelineError, match="stays as it is") as error:
        compute(family.base, family.post, out, push_to_hub=REPO, revision="dev", private=True)
    assert TOKEN not in str(error.value)
    assert verify(out).kind == "delta"
    command = str(error.value).partition("`")[2].partition("`")[0]
    assert command == f"cli.py push {out} {REPO} --revision dev --private"
    env = {**hub.env(tmp_path / "home"), "HF_TOKEN": TOKEN}
    done = cli(*command.split()[1:], "--format", "json", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pushed"] == f"{hub.url}/{REPO}/commit/{hub.repos[REPO].sha('dev')}"
    assert held(hub, branch="dev").keys() == {"d.safetensors", "README.md"}
    assert TOKEN not in done.stdout + done.stderr


def test_how_to_push_again_names_the_store(hub: HubServer, family: Family, tmp_path: Path) -> None:
    hub.fail_next("/commit/main", 400, method="POST")
    store = str(tmp_path / "store")
    with pytest.raises(PipelineError) as error:
        compute(family.base, family.post, "d.safetensors", store=store, push_to_hub=REPO)
    assert f"`cli.py push d.safetensors {REPO} --store {store}`" in str(error.value)


def test_the_command_line_pushes_what_it_computes(
    hub: HubServer, family: Family, cli: Cli, tmp_path: Path
) -> None:
    env = {**hub.env(tmp_path / "home"), "HF_TOKEN": TOKEN}
    done = cli(
        "compute", "--base", family.base, "--post", family.post, "--output", "d.safetensors",
        "--push-to-hub", REPO, "--private", env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/{REPO}/commit/" in done.stdout
    assert hub.repos[REPO].private


def test_a_token_that_can_not_push_is_found_out_before_any_work(
    hub: HubServer, family: Family, delta: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add_token("reader")
    monkeypatch.setenv("HF_TOKEN", "reader")
    for dry_run in (False, True):
        with pytest.raises(AccessError, match="may only read"):
            apply(family.new_base, [delta], str(tmp_path / "out"), push_to_hub=REPO, dry_run=dry_run)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_pushes_nothing(hub: HubServer, family: Family, tmp_path: Path) -> None:
    report = compute(family.base, family.post, str(tmp_path / "d"), push_to_hub=REPO, dry_run=True)
    assert report.pushed is None
    assert not hub.repos


@pytest.mark.parametrize("options", [{"private": True}, {"revision": "dev"}])
def test_how_to_push_without_a_push_is_refused(
    family: Family, tmp_path: Path, options: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="--push-to-hub"):
        compute(family.base, family.post, str(tmp_path / "d"), **options)  # type: ignore[arg-type]


def test_a_folder_that_is_no_model_is_not_pushed(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "a.txt").write_text("text")
    with pytest.raises(NotACheckpoint):
        push(str(tmp_path / "papers"), REPO)
    assert not hub.repos


def test_an_adapter_is_pushed_and_no_model_lies_beside_it(
    hub: HubServer, family: Family, tmp_path: Path
) -> None:
    hand_made(tmp_path / "adapter", family.base, ["q_proj"])
    push(str(tmp_path / "adapter"), REPO)
    assert held(hub) == files_of(tmp_path / "adapter")
    assert inspect(REPO).kind == "adapter"
    with pytest.raises(OutputExists, match=r"adapter_config\.json"):
        push(family.base, REPO)
    push(family.base, REPO, overwrite=True)
    assert inspect(REPO).kind == "checkpoint"
    assert "adapter_config.json" not in held(hub)
