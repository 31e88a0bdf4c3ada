"""catalog: a line for all that lies in a store, from headers; damage is a line, too."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from analysis.pages import evaluation, see
from clouds import Cloud
from keys import make_pair
from operations.conftest import DELTA, Family
from servers.azurite import Azurite
from servers.fault_proxy import FaultProxy

from pipeline import catalog, compute, copy
from pipeline.errors import NotFound, OutputExists
from pipeline.operations.catalog import CatalogReport
from pipeline.quality.conditions import parse_condition
from pipeline.quality.gate import judge
from pipeline.quality.verdict import Verdict


def made(
    store: str, folder: Path, place: str | None = None, *, key: str | None = None
) -> tuple[CatalogReport, str]:
    """The catalogue of a store, and the text of its page."""
    report = catalog(str(folder / "site"), place, key=key, store=store, overwrite=True)
    return report, see((folder / "site" / "index.html").read_bytes()).text


def write_verdict(store: str, *, bound: float) -> None:
    """A verdict on the shelf's release."""
    said = json.loads(Path(store, "models/m/paramdelta.json").read_text())
    judged = judge(evaluation(model={"task:a": 0.5}), [parse_condition(f"task:a >= {bound}")])
    verdict = Verdict(
        "r.json", "0" * 64, "models/m", said["fingerprint"], [f"task:a >= {bound}"], judged
    )
    Path(store, "verdict.json").write_text(verdict.to_json())


def test_a_catalogue_has_deltas_releases_and_which_fits_which_base(
    shelf: str, family: Family, tmp_path: Path
) -> None:
    compute(family.base, family.new_base, "deltas/e.safetensors", store=shelf)
    compute(family.new_base, family.post, "deltas/f.safetensors", store=shelf)
    report, text = made(shelf, tmp_path)
    assert (report.deltas, report.releases, report.others, report.problems) == (3, 1, 1, 0)
    assert re.search("2 deltas made of it ?deltas/d.safetensors, deltas/e.safetensors", text)
    assert re.search("1 delta made of it ?deltas/f.safetensors ?1 release on it ?models/m", text)
    assert text.count("signed") >= 2 and "not judged" in text


@pytest.mark.parametrize(("bound", "said"), [(0.4, "✓ passed"), (0.6, "✗ refused")])
def test_a_release_shows_what_the_gate_said_of_its_very_content(
    shelf: str, tmp_path: Path, bound: float, said: str
) -> None:
    write_verdict(shelf, bound=bound)
    report, text = made(shelf, tmp_path)
    assert report.verdicts == 1 and said in text and "not judged" not in text
    verdict = Path(shelf, "verdict.json")
    other = json.loads(verdict.read_text()) | {"fingerprint": "0" * 64}
    verdict.write_text(json.dumps(other))
    assert "not judged" in made(shelf, tmp_path)[1]


def test_what_is_damaged_or_foreign_is_a_line_with_the_reason(shelf: str, tmp_path: Path) -> None:
    content = Path(shelf, DELTA).read_bytes()
    damaged = {"short": b"abc", "noise": b"\xff" * 100, "empty": b"", "cut": content[:-10]}
    for name, data in damaged.items():
        Path(shelf, f"{name}.safetensors").write_bytes(data)
    Path(shelf, "<b>.json").write_text("[" * 5000)
    provenance = Path(shelf, "models/m/paramdelta.json")
    provenance.write_bytes(provenance.read_bytes().replace(b"base", b"bass", 1))
    report, text = made(shelf, tmp_path)
    assert (report.deltas, report.releases, report.problems) == (1, 0, 5)
    assert text.count("damaged:") == 5 and "<b>.json" in text


def test_signatures_are_held_against_a_key(shelf: str, key: str, tmp_path: Path) -> None:
    report, text = made(shelf, tmp_path, key=key)
    assert report.problems == 0 and text.count("✓ signed") == 2
    other = make_pair(tmp_path, "p256").public
    report, text = made(shelf, tmp_path, key=other)
    assert (report.deltas, report.releases, report.problems) == (0, 0, 2)
    assert text.count("was not made by the key in") == 2


def test_a_catalogue_keeps_to_its_prefix_and_replaces_nothing_unasked(
    shelf: str, tmp_path: Path
) -> None:
    report, text = made(shelf, tmp_path, "deltas/")
    assert (report.deltas, report.releases) == (1, 0) and "models/m" not in text
    with pytest.raises(OutputExists):
        catalog(str(tmp_path / "site"), store=shelf)
    assert catalog(str(tmp_path / "new"), store=shelf, dry_run=True).dry_run
    assert not (tmp_path / "new").exists()
    with pytest.raises(NotFound):
        catalog(str(tmp_path / "new"), f"{shelf}/none")


def test_of_a_container_only_headers_are_read(
    shelf: str, cloud: Cloud, azurite: Azurite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy(DELTA, f"{cloud.location}/{DELTA}", store=shelf)
    copy("models/m", f"{cloud.location}/models/m", store=shelf)
    with FaultProxy(azurite.url) as wire:
        container = cloud.client.container_name
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_URL", wire.url)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azurite.account_key)
        report, text = made(f"{wire.url}/{container}", tmp_path)
        assert len(wire.log) <= 8
        assert not [each for each in wire.log if "model-0" in str(each)]
    assert (report.deltas, report.releases) == (1, 1) and "signed" in text
