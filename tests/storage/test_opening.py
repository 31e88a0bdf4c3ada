"""Which store a location opens, and what is missing if it can not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import AccessError, UsageError
from pipeline.settings import Settings
from pipeline.storage.locations import parse_delta, parse_output_model, parse_store
from pipeline.storage.opening import open_folder, open_parent


def test_a_name_in_the_store_is_opened_in_the_one_that_the_settings_name(tmp_path: Path) -> None:
    store, name = open_parent(parse_delta("deltas/x.safetensors"), Settings(store=str(tmp_path)))
    assert (store.url, name) == (str(tmp_path), "deltas/x.safetensors")


@pytest.mark.parametrize(
    ("text", "folder", "name"),
    [("x", ".", "x"), ("./a/x", "a", "x"), ("/a/b/x", "/a/b", "x"), ("a/b/../x", "a", "x")],
)
def test_a_local_file_is_opened_in_its_folder(
    text: str, folder: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store, found = open_parent(parse_output_model(text), Settings())
    assert found == name
    assert Path(store.url).resolve() == (tmp_path / folder).resolve()


def test_a_container_is_not_a_file_in_it() -> None:
    with pytest.raises(UsageError, match="/name"):
        open_parent(parse_delta("az://container"), Settings())


def test_a_container_without_an_account_says_what_to_set() -> None:
    with pytest.raises(AccessError, match="AZURE_STORAGE_CONNECTION_STRING"):
        open_folder(parse_store("az://container"), Settings())
