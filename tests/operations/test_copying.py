"""copy: a delta or a model comes whole to another place, checked, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from clouds import Cloud
from operations.conftest import DELTA, Family, Snapshot
from servers.azurite import Azurite
from servers.fault_proxy import FaultProxy

from pipeline import apply, compute, copy, verify
from pipeline.errors import (
    CorruptFile,
    NotFound,
    OutputExists,
    PipelineError,
    StorageError,
    Unsigned,
    UsageError,
)
from pipeline.storage import retry


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_delta_goes_to_a_container_and_back_with_its_signature(
    shelf: str, key: str, cloud: Cloud, tmp_path: Path
) -> None:
    up = copy(DELTA, f"{cloud.location}/copies/", store=shelf, tier="cool")
    assert (up.kind, up.files, up.signed, up.checked) == ("delta", 2, True, True)
    down = copy(f"{cloud.location}/copies/d.safetensors", str(tmp_path / "back.safetensors"))
    assert down.checked
    labelled = cloud.client.get_blob_client("copies/d.safetensors").get_blob_properties()
    assert (labelled.metadata["kind"], labelled.blob_tier) == ("delta", "Cool")
    for end in ("", ".sig"):
        there = cloud.read(f"copies/d.safetensors{end}")
        assert there == Path(shelf, DELTA + end).read_bytes()
        assert there == (tmp_path / f"back.safetensors{end}").read_bytes()
    assert verify(str(tmp_path / "back.safetensors"), key=key, require_signature=True).signed_by


def test_a_model_goes_to_a_container_and_back(
    shelf: str, key: str, cloud: Cloud, tmp_path: Path, snapshot: Snapshot
) -> None:
    up = copy("models/m", f"{cloud.location}/m", store=shelf)
    assert (up.kind, up.checked, up.server_side) == ("model", True, False)
    assert copy(f"{cloud.location}/m", str(tmp_path / "back")).checked
    assert snapshot(tmp_path / "back") == snapshot(Path(shelf, "models/m"))
    assert verify(f"{cloud.location}/m", key=key, require_signature=True).signed_by


def test_within_an_account_the_service_copies_by_itself(
    family: Family, large: str, cloud: Cloud, azurite: Azurite, tmp_path: Path, snapshot: Snapshot
) -> None:
    other = f"az://{azurite.create_container().container_name}"
    compute(large, large, f"{cloud.location}/d.safetensors", codec="none")
    copy(large, f"{cloud.location}/m")
    report = copy(f"{cloud.location}/d.safetensors", f"{other}/")
    assert (report.server_side, report.checked) == (True, False)
    verify(f"{other}/d.safetensors", base=large, post=large)
    assert copy(f"{cloud.location}/m", f"{other}/m").server_side
    copy(f"{other}/m", str(tmp_path / "back"))
    assert snapshot(tmp_path / "back") == snapshot(Path(large))


def test_the_source_may_be_known_by_a_sas(large: str, cloud: Cloud) -> None:
    copy(large, f"{cloud.location}/m")
    address, _, token = cloud.url.partition("?")
    report = copy(f"{address}/m?{token}", f"{cloud.location}/n")
    assert report.server_side
    assert token not in repr(report)
    assert cloud.read("n/model.safetensors") == Path(large, "model.safetensors").read_bytes()


def test_what_the_service_can_not_copy_flows_through_here(
    large: str, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azurite answers 500 to a Put Block From URL that is allowed by a SAS."""
    copy(large, f"{cloud.location}/m")
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    address, _, token = cloud.url.partition("?")
    assert not copy(f"{address}/m?{token}", f"{address}/n?{token}").server_side
    assert cloud.read("n/model.safetensors") == Path(large, "model.safetensors").read_bytes()


def test_a_copy_takes_no_more_memory_than_it_is_given(large: str, cloud: Cloud, tmp_path: Path) -> None:
    copy(large, str(tmp_path / "copy"), memory="2MiB")
    with pytest.raises(UsageError, match="--memory"):
        copy(large, f"{cloud.location}/m", memory="2MiB")
    assert cloud.names() == []


@pytest.mark.parametrize("codec", ["rans", "none"])
def test_a_damaged_delta_is_not_copied(family: Family, tmp_path: Path, codec: str) -> None:
    store, path = str(tmp_path / "shelf"), tmp_path / "shelf" / "d.safetensors"
    compute(family.base, family.post, "d.safetensors", store=store, codec=codec)
    whole = path.read_bytes()
    assert copy("d.safetensors", "e.safetensors", store=store).checked
    for offset in range(3, len(whole), len(whole) // 25):
        path.write_bytes(whole)
        flip(path, offset)
        with pytest.raises(PipelineError):
            copy("d.safetensors", "f.safetensors", store=store)
    assert sorted(each.name for each in path.parent.iterdir()) == ["d.safetensors", "e.safetensors"]


def test_a_damaged_model_is_not_copied(shelf: str) -> None:
    model = Path(shelf, "models/m")
    for path in sorted(model.iterdir()):
        if path.suffix == ".sig":
            continue
        whole = path.read_bytes()
        flip(path, len(whole) * 2 // 3)
        with pytest.raises(CorruptFile):
            copy("models/m", "models/n", store=shelf)
        path.unlink()
        if path.name != "paramdelta.json":
            with pytest.raises(CorruptFile):
                copy("models/m", "models/n", store=shelf)
        path.write_bytes(whole)
    assert [path.name for path in model.parent.iterdir()] == ["m"]


def test_what_changes_while_it_is_copied_is_not_published(
    shelf: str, cloud: Cloud, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    copy("models/m", f"{cloud.location}/m", store=shelf)

    def rule(method: str, path: str) -> None:
        if method == "GET" and "/m/model-00002" in path:
            cloud.client.upload_blob("m/README.md", b"another", overwrite=True)

    with FaultProxy(azurite.url) as wire:
        wire.rule = rule
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azurite.account_key)
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_URL", wire.url)
        with pytest.raises(StorageError, match="changed"):
            copy(f"{wire.url}/{cloud.client.container_name}/m", f"{shelf}/models/n")
    assert not Path(shelf, "models/n").exists()


def test_a_destination_that_is_taken_is_refused_and_kept(shelf: str, snapshot: Snapshot) -> None:
    Path(shelf, "taken.safetensors.sig").write_text("somebody's")
    before = snapshot(Path(shelf))
    for dry_run in (False, True):
        for source, destination in (
            (DELTA, "notes.txt"),
            (DELTA, "taken.safetensors"),
            ("models/m", "notes.txt"),
            ("models/m", "deltas"),
        ):
            with pytest.raises(OutputExists, match="--overwrite"):
                copy(source, destination, store=shelf, dry_run=dry_run)
    with pytest.raises(UsageError, match="itself"):
        copy(DELTA, "deltas/", store=shelf, overwrite=True)
    assert copy(DELTA, "new.safetensors", store=shelf, dry_run=True).written_bytes > 0
    assert snapshot(Path(shelf)) == before


def test_a_copy_that_overwrites_takes_the_signature_along_or_away(
    family: Family, shelf: str, key: str
) -> None:
    compute(family.base, family.new_base, "unsigned.safetensors", store=shelf)
    copy("unsigned.safetensors", "copy.safetensors", store=shelf)
    copy(DELTA, "copy.safetensors", store=shelf, overwrite=True)
    assert verify("copy.safetensors", store=shelf, key=key).signed_by
    copy("unsigned.safetensors", "copy.safetensors", store=shelf, overwrite=True)
    with pytest.raises(Unsigned):
        verify("copy.safetensors", store=shelf, key=key)


def test_an_overwritten_model_is_the_new_one(family: Family, shelf: str, snapshot: Snapshot) -> None:
    apply(family.base, [DELTA], f"{shelf}/models/other", store=shelf)
    copy("models/other", "models/m", store=shelf, overwrite=True)
    assert snapshot(Path(shelf, "models/m")) == snapshot(Path(shelf, "models/other"))


def test_what_can_not_be_copied_is_named(shelf: str) -> None:
    for source in ("none", "deltas", "models", "hf://org/model", "az://releases", "/"):
        with pytest.raises((NotFound, UsageError)):
            copy(source, "new", store=shelf)
