"""list: a line for each delta and each model of a store, with what is wrong with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from clouds import Cloud
from operations.conftest import DELTA, Family, listed
from servers.azurite import Azurite
from servers.fault_proxy import FaultProxy

from pipeline import catalog, compute, copy, extract_adapter, list_store, verify
from pipeline.errors import (
    NotACheckpoint,
    NotFound,
)
from pipeline.storage.azure.claim import CLAIM


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


def test_an_adapter_is_listed_and_copied_as_one_thing_whoever_made_it(
    shelf: str, tmp_path: Path
) -> None:
    extract_adapter(DELTA, str(Path(shelf, "lora")), rank=2, store=shelf)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        Path(shelf, "pefts").mkdir(exist_ok=True)
        shutil.copy(Path(shelf, "lora", name), Path(shelf, "pefts", name))
    found = listed(shelf)
    assert [found[name].kind for name in ("lora", "pefts")] == ["adapter", "adapter"]
    assert [found[name].problem for name in ("lora", "pefts")] == [None, None]
    shown = catalog(str(tmp_path / "catalog"), store=shelf)
    assert (shown.problems, shown.releases, shown.others) == (0, 1, 3)
    copy("pefts", str(tmp_path / "copied"), store=shelf)
    assert (tmp_path / "copied" / "adapter_model.safetensors").is_file()


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
