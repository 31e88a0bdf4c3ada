"""verify: a whole model is called so; what is damaged, lost, or vouched for by nobody is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from blake3 import blake3
from clouds import Cloud
from deltas.surgery import flipped
from operations.conftest import Family, Snapshot, delta_of
from servers.hub import HubServer

from pipeline import apply, compute, verify
from pipeline.errors import (
    CorruptFile,
    NotACheckpoint,
    PipelineError,
)


@pytest.fixture
def model(family: Family) -> Path:
    """A folder that apply wrote, with every kind of file in it."""
    (Path(family.post) / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (Path(family.post) / "chat_template.jinja").write_text("{{ messages }}")
    apply(family.base, [delta_of(family)], str(family.folder / "out"), shard_size="4KB")
    return family.folder / "out"


def test_a_whole_model_is_called_whole(family: Family, model: Path, snapshot: Snapshot) -> None:
    before = snapshot(model)
    found = verify(str(model))
    assert (found.kind, found.tensors, found.unlisted) == ("model", 8, [])
    assert found.fingerprint == verify_fingerprint(family)
    assert found.read_bytes == sum(tensor.nbytes for tensor in family.state("out").values())
    assert snapshot(model) == before


def verify_fingerprint(family: Family) -> str:
    """That of post, which was restored."""
    return str(compute(family.base, family.post, str(family.folder / "x")).post_fingerprint)


@pytest.mark.parametrize("where", [0.0, 0.03, 0.2, 0.5, 0.999])
def test_damage_to_any_file_is_found(model: Path, where: float) -> None:
    files = sorted(model.iterdir())
    assert len(files) > 7
    for path in files:
        data = path.read_bytes()
        path.write_bytes(flipped(data, int(where * len(data)), 2))
        with pytest.raises(CorruptFile, match=re.escape(str(model))) as error:
            verify(str(model))
        assert error.value.exit_code == 6
        path.write_bytes(data)
    verify(str(model))


def test_files_that_are_gone_or_cut_off_are_named(model: Path) -> None:
    for path in sorted(model.iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        with pytest.raises(CorruptFile):
            verify(str(model))
        path.unlink()
        with pytest.raises(PipelineError, match=path.name):
            verify(str(model))
        path.write_bytes(data)


def test_shards_in_each_others_place_are_found(model: Path) -> None:
    one, two = sorted(model.glob("*.safetensors"))[:2]
    one.rename(model / "x")
    two.rename(one)
    (model / "x").rename(two)
    with pytest.raises(CorruptFile, match="header"):
        verify(str(model))


def test_damaged_tensors_are_named(family: Family, model: Path) -> None:
    for path in model.glob("*.safetensors"):
        data = path.read_bytes()
        path.write_bytes(flipped(data, len(data) - 1, 0))
    shards = len(list(model.glob("*.safetensors")))
    with pytest.raises(CorruptFile, match=f"{shards} tensors are not as they were written: model"):
        verify(str(model))


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "extra.safetensors", "model.pt", "x.pth", "x.safetensors.index.json"],
)
def test_a_file_that_a_loader_might_take_for_weights_is_refused(model: Path, name: str) -> None:
    (model / name).write_bytes(b"?")
    with pytest.raises(CorruptFile, match=re.escape(f"{name} is not of this model")):
        verify(str(model))


def test_other_files_that_nobody_vouches_for_are_reported(model: Path) -> None:
    (model / "notes.txt").write_text("hello")
    (model / "figures").mkdir()
    (model / "figures" / "loss.png").write_bytes(b"?")
    assert verify(str(model)).unlisted == ["figures/loss.png", "notes.txt"]


def rewrite(model: Path, **changes: object) -> None:
    """Change the provenance, and its digest of itself as a forger would."""
    path = model / "paramdelta.json"
    content = {**json.loads(path.read_text()), "digest": "0" * 64} | changes
    data = json.dumps(content).encode()
    path.write_bytes(data.replace(b"0" * 64, blake3(data).hexdigest().encode(), 1))


def test_a_provenance_that_was_written_again_as_it_was_is_accepted(model: Path) -> None:
    """So that the refusals below are about what was changed."""
    rewrite(model)
    verify(str(model))


@pytest.mark.parametrize("name", ["fingerprint", "tensors", "shards", "files"])
def test_digests_that_do_not_fit_are_found(model: Path, name: str) -> None:
    said = json.loads((model / "paramdelta.json").read_text())[name]
    wrong = "ab" * 32
    rewrite(model, **{name: wrong if name == "fingerprint" else {**said, next(iter(said)): wrong}})
    with pytest.raises(CorruptFile):
        verify(str(model))


@pytest.mark.parametrize("name", ["fingerprint", "tensors", "shards", "files", "version"])
@pytest.mark.parametrize(
    "value", [None, 3, "x", [], {"../../etc/passwd": "ab" * 32}, {"config.json": "x"}, [["a", "b"]]]
)
def test_a_provenance_that_is_none_is_refused(model: Path, name: str, value: object) -> None:
    rewrite(model, **{name: value})
    with pytest.raises(CorruptFile, match=r"paramdelta|tensors|missing"):
        verify(str(model))


@pytest.mark.parametrize("text", ["", "[]", "3", "not json", "\x00", "[" * 100_000], ids=len)
def test_a_provenance_that_is_no_object_is_refused(model: Path, text: str) -> None:
    (model / "paramdelta.json").write_text(text)
    with pytest.raises(CorruptFile, match=r"paramdelta\.json"):
        verify(str(model))


def test_a_model_in_a_container_is_verified_once_it_is_whole(model: Path, cloud: Cloud) -> None:
    cloud.upload(model, "out")
    assert verify(f"{cloud.location}/out").fingerprint == verify(str(model)).fingerprint
    cloud.client.upload_blob("out/.being-published", b"{}")
    with pytest.raises(NotACheckpoint, match="being published"):
        verify(f"{cloud.location}/out")


def test_a_model_on_the_hub_is_verified(
    model: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.patch_client(monkeypatch, tmp_path / "home")
    hub.add_repo("org/out", model)
    assert verify("org/out").fingerprint == verify(str(model)).fingerprint
