"""page: from reports, deltas, releases and folders of analyze to a folder with index.html."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from analysis.pages import see
from conftest import Cli
from operations.conftest import DELTA, Family, Snapshot

from pipeline import compute, page, verify
from pipeline.errors import BadSignature, CorruptFile, NotFound, OutputExists, UsageError

PLOT = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


def test_deltas_and_releases_speak_for_themselves(shelf: str, key: str, tmp_path: Path) -> None:
    report = page([DELTA, "models/m"], str(tmp_path / "site"), store=shelf, key=key)
    assert report.sources == [f"{DELTA} (delta)", "models/m (release)"]
    content = (tmp_path / "site" / "index.html").read_bytes()
    assert len(content) == report.written_bytes
    text = see(content).text
    assert "Signature holds" in text and text.count("✓ holds") == 2
    assert "model.layers.1.mlp.up_proj.weight" in text
    assert "another base" in text


def test_reports_are_read_as_commands_print_them(family: Family, tmp_path: Path) -> None:
    where = str(tmp_path / "d.safetensors")
    made = asdict(compute(family.base, family.post, where))
    found = asdict(verify(where, base=family.base, post=family.post))
    reports = []
    for name, report in (("compute", made), ("verify", found)):
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
        reports.append(str(tmp_path / f"{name}.json"))
    page(reports, str(tmp_path / "site"))
    text = see((tmp_path / "site" / "index.html").read_bytes()).text
    assert "Bit for bit" in text
    assert str(made["fingerprint"]) in text


def test_a_folder_of_analyze_brings_its_plots(tmp_path: Path) -> None:
    folder = tmp_path / "analysis"
    (folder / "plots").mkdir(parents=True)
    (folder / "analysis.json").write_text(
        '{"format": "paramdelta-analysis/1", "deltas": [], "pairs": []}'
    )
    for name in ("norms-by-layer.svg", "norms-by-layer.png", "cosine.png", "notes.txt"):
        (folder / "plots" / name).write_bytes(PLOT)
    page([str(folder)], str(tmp_path / "site"))
    seen = see((tmp_path / "site" / "index.html").read_bytes())
    shown = [(each["alt"], str(each["src"]).partition(";")[0]) for each in seen.all("img")]
    assert shown == [
        ("Plot: cosine", "data:image/png"),
        ("Plot: norms by layer", "data:image/svg+xml"),
    ]


def test_what_is_no_report_is_refused_before_anything_is_written(shelf: str, tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes, type[Exception]]] = {
        "other.json": (b"{}", UsageError),
        "broken.json": (b"{", CorruptFile),
        "deep.json": (b"[" * 90 + b"]" * 90, CorruptFile),
        "noise.safetensors": (b"\xff" * 100, CorruptFile),
    }
    for name, (content, error) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error):
            page([str(tmp_path / name)], str(tmp_path / "site"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x")
    for location, error in ((tmp_path / "folder", UsageError), (tmp_path / "none", NotFound)):
        with pytest.raises(error):
            page([str(location)], str(tmp_path / "site"))
    with pytest.raises(UsageError, match="needs a report"):
        page([], str(tmp_path / "site"))
    assert not (tmp_path / "site").exists()


def test_a_signature_of_another_content_makes_no_page(shelf: str, key: str, tmp_path: Path) -> None:
    signature = Path(shelf, f"{DELTA}.sig")
    signature.write_bytes(Path(shelf, "models/m/paramdelta.json.sig").read_bytes())
    with pytest.raises(BadSignature):
        page([DELTA], str(tmp_path / "site"), store=shelf, key=key)
    assert not (tmp_path / "site").exists()


def test_a_page_is_replaced_only_if_asked_and_a_dry_run_writes_nothing(
    shelf: str, tmp_path: Path, snapshot: Snapshot
) -> None:
    site = tmp_path / "site"
    planned = page([DELTA], str(site), store=shelf, dry_run=True)
    assert planned.dry_run and not site.exists()
    page([DELTA], str(site), store=shelf, title="first")
    before = snapshot(site)
    with pytest.raises(OutputExists):
        page([DELTA], str(site), store=shelf)
    assert snapshot(site) == before
    page([DELTA], str(site), store=shelf, title="second", overwrite=True)
    assert "second" in see((site / "index.html").read_bytes()).text


def test_the_command_makes_a_page_and_says_from_what(cli: Cli, shelf: str, tmp_path: Path) -> None:
    done: subprocess.CompletedProcess[str] = cli(
        "page", DELTA, "--store", shelf, "--output", "./site", "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sources"] == [f"{DELTA} (delta)"]
    assert (tmp_path / "site" / "index.html").is_file()
