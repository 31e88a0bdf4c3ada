"""list, copy, delete and clean: a store's content shown, moved and removed, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Cli
from keys import make_pair
from operations.conftest import Cloud, Family
from servers.azurite import Azurite
from servers.fault_proxy import FaultProxy

from pipeline import apply, clean, compute, copy, delete, list_store, verify
from pipeline.errors import (
    BadSignature,
    CorruptFile,
    NotACheckpoint,
    NotFound,
    OutputExists,
    PipelineError,
    StorageError,
    Unsigned,
    UsageError,
)
from pipeline.operations.storing.listing import Listed
from pipeline.storage import retry
from pipeline.storage.azure.claim import CLAIM

Snapshot = Callable[[Path], dict[str, bytes]]
DELTA = "deltas/d.safetensors"


@pytest.fixture
def shelf(family: Family, tmp_path: Path) -> str:
    """A store with a signed delta, a signed model and a file that is neither."""
    pair = make_pair(tmp_path, "ed25519")
    store = str(tmp_path / "shelf")
    compute(family.base, family.post, DELTA, store=store, sign_key=pair.private)
    apply(
        family.new_base,
        [DELTA],
        f"{store}/models/m",
        store=store,
        shard_size=4096,
        sign_key=pair.private,
    )
    Path(store, "notes.txt").write_text("notes")
    return store


@pytest.fixture
def key(shelf: str, tmp_path: Path) -> str:
    return str(tmp_path / "ed25519-public.pem")


@pytest.fixture
def large(family: Family) -> str:
    """A model of 3 MiB, to be copied in more than a block, and by the service itself."""
    generator = torch.Generator().manual_seed(1)
    return family.add("large", {"w": torch.randn(3 << 19, generator=generator).to(torch.bfloat16)})


def listed(store: str, place: str | None = None) -> dict[str, Listed]:
    return {item.name: item for item in list_store(place, store=store).items}


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


# -- list -------------------------------------------------------------------------------------


def test_a_list_has_a_line_for_each_delta_and_each_model(family: Family, shelf: str) -> None:
    found = listed(shelf)
    assert {name: item.kind for name, item in found.items()} == {
        DELTA: "delta",
        "models/m": "model",
        "notes.txt": "other",
    }
    assert (found[DELTA].base, found[DELTA].post) == (family.base, family.post)
    assert [item.signed for item in found.values()] == [True, True, False]
    files = list(Path(shelf, "models/m").iterdir())
    assert found["models/m"].files == len(files) > 6
    assert found["models/m"].nbytes == sum(path.stat().st_size for path in files)
    assert not any(item.problem for item in found.values())


def test_a_list_keeps_to_its_prefix_or_to_the_folder_that_is_named(shelf: str) -> None:
    assert list(listed(shelf, "deltas/")) == [DELTA]
    assert list(listed(shelf, "model")) == ["models/m"]
    assert list(listed(shelf, "none")) == []
    assert list(listed("./elsewhere", f"{shelf}/models")) == ["m"]
    assert [item.kind for item in listed("./elsewhere", f"{shelf}/models/m").values()] == ["model"]
    assert list(listed("./elsewhere", f"{shelf}/{DELTA}")) == ["d.safetensors"]
    with pytest.raises(NotFound):
        list_store(f"{shelf}/none")


def test_a_delta_may_be_called_like_a_models_weights(family: Family, tmp_path: Path) -> None:
    store = str(tmp_path / "shelf")
    compute(family.base, family.post, "model.safetensors", store=store)
    assert {name: item.kind for name, item in listed(store).items()} == {"model.safetensors": "delta"}


def test_a_damaged_delta_is_listed_as_such(shelf: str) -> None:
    for name, data in (("short", b"abc"), ("noise", b"\xff" * 100), ("empty", b"")):
        Path(shelf, f"{name}.safetensors").write_bytes(data)
    content = Path(shelf, DELTA).read_bytes()
    Path(shelf, "cut.safetensors").write_bytes(content[:-10])
    Path(shelf, "manifest.safetensors").write_bytes(content[:-10] + b" " * 10)
    found = listed(shelf)
    for name in ("short", "noise", "empty", "cut", "manifest"):
        assert (found[f"{name}.safetensors"].problem or "").startswith("damaged"), name
    assert found[DELTA].problem is None


def test_a_list_of_a_container_asks_little_and_downloads_no_weights(
    shelf: str, cloud: Cloud, azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(DELTA, f"{cloud.location}/{DELTA}", store=shelf)
    copy("models/m", f"{cloud.location}/models/m", store=shelf)
    with FaultProxy(azurite.url) as wire:
        key, name = azurite.account_key, cloud.client.container_name
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_URL", wire.url)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", key)
        found = listed(f"{wire.url}/{name}")
        assert len(wire.log) <= 5
    assert {name: item.kind for name, item in found.items()} == {DELTA: "delta", "models/m": "model"}
    assert all(item.signed for item in found.values())


def test_a_model_that_is_being_published_is_not_listed_as_whole(shelf: str, cloud: Cloud) -> None:
    copy("models/m", f"{cloud.location}/m", store=shelf)
    assert listed(cloud.location)["m"].problem is None
    cloud.client.upload_blob(f"m/{CLAIM}", b"{}")
    assert "being published" in (listed(cloud.location)["m"].problem or "")
    for use in (lambda: copy("m", "n", store=cloud.location), lambda: verify(f"{cloud.location}/m")):
        with pytest.raises(NotACheckpoint, match="being published"):
            use()


# -- copy -------------------------------------------------------------------------------------


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


# -- delete -----------------------------------------------------------------------------------


def test_a_delta_goes_with_its_signature_and_a_model_whole(shelf: str, cloud: Cloud) -> None:
    for name in (DELTA, "models/m"):
        copy(name, f"{cloud.location}/{name}", store=shelf)
    for store in (shelf, cloud.location):
        report = delete([DELTA, "models/m/"], store=store)
        assert report.deleted and report.items[0].files == 2
    assert cloud.names() == []
    assert [path.name for path in Path(shelf).rglob("*") if path.is_file()] == ["notes.txt"]


def test_nothing_goes_before_everything_is_found_and_agreed_to(shelf: str, snapshot: Snapshot) -> None:
    before = snapshot(Path(shelf))
    asked = []
    for names, error in (
        ([DELTA, "none"], NotFound),
        ([DELTA, "models"], UsageError),
        ([DELTA, "az://releases"], UsageError),
        ([], UsageError),
    ):
        with pytest.raises(error):
            delete(names, store=shelf, agree=lambda report: bool(asked.append(report)) or True)
    assert not asked
    assert not delete([DELTA, "models/m"], store=shelf, dry_run=True).deleted
    assert not delete([DELTA], store=shelf, agree=lambda report: False).deleted
    assert snapshot(Path(shelf)) == before


def test_what_changes_after_it_was_agreed_to_stays(
    family: Family, shelf: str, key: str, cloud: Cloud
) -> None:
    copy(DELTA, f"{cloud.location}/{DELTA}", store=shelf)
    for store in (shelf, cloud.location):

        def agree(report: object, store: str = store) -> bool:
            compute(family.base, family.new_base, DELTA, store=store, overwrite=True)
            return True

        with pytest.raises(StorageError, match="changed"):
            delete([DELTA], store=store, agree=agree)
        assert listed(store)[DELTA].post == family.new_base
        with pytest.raises(BadSignature):
            verify(DELTA, store=store, key=key)


def test_a_model_whose_publishing_was_stopped_can_be_deleted(shelf: str, cloud: Cloud) -> None:
    copy("models/m", f"{cloud.location}/m", store=shelf)
    cloud.client.upload_blob(f"m/{CLAIM}", b"{}")
    assert delete(["m"], store=cloud.location).deleted
    assert cloud.names() == []


# -- clean ------------------------------------------------------------------------------------


def test_clean_keeps_what_is_young_and_what_may_be_whole(shelf: str, cloud: Cloud) -> None:
    for name in ("whole", "broken"):
        copy("models/m", f"{cloud.location}/{name}", store=shelf)
        cloud.client.upload_blob(f"{name}/{CLAIM}", b"{}")
    cloud.client.delete_blob("broken/config.json")
    young = clean(store=cloud.location)
    assert {item.name: item.kept for item in young.items} == dict.fromkeys(
        ("whole", "broken"), "too young"
    )
    report = clean(store=cloud.location, older_than=0)
    kept = {item.name: item.kept for item in report.items}
    assert report.removed == 1 and kept["broken"] is None and "delete whole" in (kept["whole"] or "")
    assert {name.partition("/")[0] for name in cloud.names()} == {"whole"}


def test_clean_removes_what_a_killed_run_left_beside_what_is_whole(
    shelf: str, snapshot: Snapshot
) -> None:
    before = snapshot(Path(shelf))
    Path(shelf, "deltas", ".d.safetensors.partial-0123abcd").write_bytes(b"1" * 5)
    Path(shelf, ".m.partial-0123abcd").mkdir()
    Path(shelf, ".m.partial-0123abcd", "x").write_bytes(b"12")
    assert clean(store=shelf, older_than="0s", agree=lambda report: False).removed == 0
    assert clean("deltas/", store=shelf, older_than="0s", dry_run=True).nbytes == 5
    report = clean(store=shelf, older_than="0s")
    assert (report.removed, report.nbytes) == (2, 7)
    assert snapshot(Path(shelf)) == before
    assert clean(store=shelf).items == []


@pytest.mark.parametrize("text", ["", "x", "1w", "-1d", "1d2h"])
def test_an_age_that_means_nothing_is_refused(shelf: str, text: str) -> None:
    with pytest.raises(UsageError, match="age"):
        clean(store=shelf, older_than=text)


# -- the command line -------------------------------------------------------------------------


def test_the_commands_print_what_they_do(cli: Cli, shelf: str, tmp_path: Path) -> None:
    env = {"PIPELINE_STORE": shelf}
    said = cli("list", env=env).stdout
    assert "deltas/d.safetensors  delta" in said and "3 in " in said
    copied = json.loads(cli("copy", "models/m", "models/n", "--format", "json", env=env).stdout)
    assert copied["checked"] is True
    refused = cli("delete", "models/n", DELTA, env=env)
    assert refused.returncode == 2 and refused.stdout == ""
    assert "models/n" in refused.stderr and "--yes" in refused.stderr
    done = cli("delete", "models/n", DELTA, "--yes", "--format", "json", env=env)
    assert json.loads(done.stdout)["deleted"] is True
    assert list(listed(shelf)) == ["models/m", "notes.txt"]
    Path(shelf, ".x.partial-0123abcd").write_bytes(b"12345")
    for arguments, left in (([], True), (["--dry-run", "--yes"], True), (["--yes"], False)):
        done = cli("clean", "--older-than", "0s", *arguments, env=env)
        assert done.returncode == 0 and "1 of 1 leftovers" in done.stdout
        assert Path(shelf, ".x.partial-0123abcd").exists() is left


def test_a_name_in_a_store_can_not_steer_the_terminal(cli: Cli, shelf: str) -> None:
    Path(shelf, "a\x1b[31m[bold]b").write_text("")
    said = cli("list", env={"PIPELINE_STORE": shelf}).stdout
    assert "\x1b" not in said and "[bold]b" in said
