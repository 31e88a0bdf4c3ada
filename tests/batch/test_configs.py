"""The configs of the repository do what they say, on the model family that lies beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from keys import make_pair
from models import State, formula, read_model, same_bits
from servers.azurite import Azurite

from pipeline.batch.report import BatchReport
from pipeline.batch.runner import run_batch

FAMILY = ROOT / "examples" / "family"
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.json") if ".schema." not in path.name)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current directory: the repository's configs and models, and nothing else."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def family():
    return {name: read_model(FAMILY / name) for name in ("base-v1", "post-v1", "base-v2", "post-v2")}


def run(name: str, **options) -> BatchReport:
    report = run_batch(f"configs/{name}.json", **options)
    assert report.ok, [step.error for step in report.steps if step.error]
    return report


def moved(base: State, *terms: tuple[float, State, State]) -> State:
    """base + the sum of scale * (post - old base), tensor by tensor."""
    return {
        name: formula(base[name], *((scale, post[name], old[name]) for scale, post, old in terms))
        for name in base
    }


def assert_same(found: State, wanted: State) -> None:
    assert set(found) == set(wanted)
    assert all(same_bits(found[name], wanted[name]) for name in wanted)


def test_there_are_five_and_each_has_its_schema_for_editors():
    names = ["azure-release", "chain", "fused", "matrix", "quickstart"]
    assert [path.stem for path in CONFIGS] == names
    for path in CONFIGS:
        assert json.loads(path.read_text())["$schema"] == "./batch.schema.json"


def test_chain_carries_one_post_training_over_three_bases(family):
    """The third base is the second one, moved on by half of what lay between the first two."""
    report = run("chain")
    assert [step.id for step in report.steps] == [
        "drift", "base-v3", "chat.delta.v1", "chat.v2", "chat.v3",
    ]  # fmt: skip
    v1, v2, post = (family[name] for name in ("base-v1", "base-v2", "post-v1"))
    v3 = read_model(Path("build/chain/base-v3"))
    assert_same(v3, moved(v2, (0.5, v2, v1)))
    for name, base in (("chat-v2", v2), ("chat-v3", v3)):
        assert_same(read_model(Path("build/chain", name)), moved(base, (1.0, post, v1)))


def test_chain_goes_on_from_a_post_that_was_trained_again(family):
    config = json.loads(Path("configs/chain.json").read_text())
    config["models"]["post-v2"] = "examples/family/post-v2"
    config["chain"][0] |= {"rebase": True}
    config["chain"][0]["versions"][1]["post"] = "@post-v2"
    Path("configs/rebased.json").write_text(json.dumps(config))
    run("rebased")
    v3 = read_model(Path("build/chain/base-v3"))
    wanted = moved(v3, (1.0, family["post-v2"], family["base-v2"]))
    assert_same(read_model(Path("build/chain/chat-v3")), wanted)


def test_fused_adds_two_deltas_of_which_one_is_never_written(family):
    run("fused")
    assert [path.name for path in Path("build/fused/store/deltas").iterdir()] == ["chat-v1.safetensors"]
    wanted = moved(
        family["base-v2"],
        (0.5, family["post-v1"], family["base-v1"]),
        (0.5, family["post-v2"], family["base-v2"]),
    )
    assert_same(read_model(Path("build/fused/chat")), wanted)


def test_matrix_is_every_delta_on_every_base(family):
    run("matrix", jobs=2)
    for post, old in (("post-v1", "base-v1"), ("post-v2", "base-v2")):
        for base in ("base-v1", "base-v2"):
            found = read_model(Path("build/matrix", f"chat-{post[-2:]}-on-{base}"))
            restored = family[post] if base == old else None
            assert_same(found, restored or moved(family[base], (1.0, family[post], family[old])))


def test_azure_release_signs_what_it_puts_into_a_container(
    azurite: Azurite, family, tmp_path, monkeypatch
):
    container, pair = azurite.create_container(), make_pair(tmp_path, "ed25519")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    monkeypatch.setenv("RELEASE_CONTAINER", str(container.container_name))
    monkeypatch.setenv("RELEASE_SIGN_KEY", pair.private)
    monkeypatch.setenv("RELEASE_KEY", pair.public)
    report = run("azure-release")
    assert [step.status for step in report.steps] == ["done"] * 4
    names = set(container.list_blob_names())
    assert {"deltas/chat-v1.safetensors", "deltas/chat-v1.safetensors.sig"} < names
    assert {"models/chat-v2/model.safetensors", "models/chat-v2/paramdelta.json.sig"} < names
    assert "reports/azure-release.json" in names
    Path("model.safetensors").write_bytes(
        container.download_blob("models/chat-v2/model.safetensors").readall()
    )
    wanted = moved(family["base-v2"], (1.0, family["post-v1"], family["base-v1"]))
    assert_same(read_model(Path()), wanted)
    kept = container.download_blob("reports/azure-release.json").readall()
    assert azurite.account_key.encode() not in kept and b"PRIVATE KEY" not in kept
    assert [step.status for step in run("azure-release").steps] == ["fresh"] * 4


# Those that have tests of their own.
ELSEWHERE = ("azure-release", "quickstart")


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS if path.stem not in ELSEWHERE])
def test_what_exists_is_not_made_again(name):
    run(name)
    assert {step.status for step in run(name).steps} == {"fresh"}
