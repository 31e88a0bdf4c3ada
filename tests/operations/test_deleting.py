"""delete and clean: what was agreed to goes, whole; what is young, changed or not named stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from clouds import Cloud
from operations.conftest import DELTA, Family, Snapshot, listed

from pipeline import clean, compute, copy, delete, verify
from pipeline.errors import (
    BadSignature,
    NotFound,
    StorageError,
    UsageError,
)
from pipeline.storage.azure.claim import CLAIM

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
