"""gate: a report is judged, the verdict kept; publish: only what its gates let pass gets its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clouds import Cloud
from operations.conftest import DELTA, Family, Snapshot
from quality.evaluations import evaluation, write
from typer.testing import CliRunner

import cli
from pipeline import apply, compute, gate, publish, verify
from pipeline.errors import CorruptFile, NotACheckpoint, NotFound, OutputExists, Refused, UsageError
from pipeline.quality.verdict import Verdict
from pipeline.tensors.fingerprint import digest_bytes

GOOD, BAD = "task:copy >= base", "task:copy >= 0.9"
FIGURES = {"model": {"task:copy": (0.6, 0.03)}, "base": {"task:copy": (0.5, 0.04)}}


@pytest.fixture
def report(tmp_path: Path) -> str:
    return write(tmp_path / "report.json", evaluation(**FIGURES))


def judge_of(model: str, fingerprint: str, folder: Path, *require: str) -> str:
    """A verdict on a model, by way of a report and the gate itself; where it lies."""
    found = evaluation(location=model, fingerprint=fingerprint, **FIGURES)
    report = write(folder / "evidence" / "report.json", found)
    output = str(folder / "evidence" / "verdict.json")
    gate(report, require=require or [GOOD], output=output, overwrite=True)
    return output


# -- gate -----------------------------------------------------------------------------------------------


def test_a_verdict_says_what_was_judged_and_is_kept(report: str, tmp_path: Path) -> None:
    output = str(tmp_path / "kept" / "verdict.json")
    verdict = gate(report, require=[GOOD, "task:copy >= base - 2se"], output=output)
    assert verdict.passed and verdict.fingerprint == "a" * 64 and verdict.model == "./model"
    assert verdict.report_digest == str(digest_bytes(Path(report).read_bytes()))
    assert Verdict.from_json(Path(output).read_text(), where=output) == verdict


def test_a_refusal_is_kept_too(report: str, tmp_path: Path) -> None:
    output = tmp_path / "verdict.json"
    verdict = gate(report, require=[GOOD, BAD], output=str(output))
    assert verdict.refusals == ("task:copy >= 0.9: 0.6 is not >= 0.9",)
    assert json.loads(output.read_text())["passed"] is False


def test_the_same_verdict_is_left_and_another_is_not_replaced_unasked(
    report: str, tmp_path: Path
) -> None:
    output = tmp_path / "verdict.json"
    gate(report, require=[GOOD], output=str(output))
    before = output.stat().st_mtime_ns
    gate(report, require=[GOOD], output=str(output))
    with pytest.raises(OutputExists):
        gate(report, require=[BAD], output=str(output))
    assert output.stat().st_mtime_ns == before
    assert not gate(report, require=[BAD], output=str(output), overwrite=True).passed
    assert output.stat().st_mtime_ns != before


def test_mistakes_in_conditions_are_said_together_and_nothing_is_written(
    report: str, tmp_path: Path
) -> None:
    output = tmp_path / "verdict.json"
    with pytest.raises(UsageError, match=r"column 12.*column 1: 'tsk'"):
        gate(report, require=["task:copy >", GOOD, "tsk > 0"], output=str(output))
    with pytest.raises(UsageError, match="no reference was measured"):
        gate(report, require=["task:copy > reference"], output=str(output))
    with pytest.raises(UsageError, match="needs a condition"):
        gate(report, require=[], output=str(output))
    assert not output.exists()


def test_what_is_no_report_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_bytes(b"\xff\x00{")
    with pytest.raises(CorruptFile, match="odd"):
        gate(str(tmp_path / "odd.json"), require=[GOOD])
    with pytest.raises(NotFound):
        gate(str(tmp_path / "none.json"), require=[GOOD])


def test_a_gate_in_a_container(cloud: Cloud) -> None:
    cloud.client.upload_blob("r.json", evaluation(**FIGURES).to_json().encode())
    output = f"{cloud.location}/verdicts/v.json"
    assert gate(f"{cloud.location}/r.json", require=[GOOD], output=output).passed
    assert Verdict.from_json(cloud.read("verdicts/v.json").decode(), where=output).output == output


def test_the_command_shows_both_values_and_ends_with_4_if_refused(report: str) -> None:
    run = CliRunner().invoke
    done = run(cli.app, ["gate", report, "--require", GOOD])
    assert done.exit_code == 0 and "0.6 is >= 0.5" in done.output and "1 of 1 hold" in done.output
    done = run(cli.app, ["gate", report, "--require", GOOD, "--require", BAD])
    assert "0.6 is not >= 0.9" in done.output and "REFUSED" in done.output
    assert isinstance(done.exception, Refused) and done.exception.exit_code == 4
    done = run(cli.app, ["gate", report, "--require", BAD, "--format", "json"])
    assert json.loads(done.output)["passed"] is False


# -- publish --------------------------------------------------------------------------------------------


@pytest.fixture
def model(family: Family, shelf: str) -> tuple[str, str]:
    """A signed model that apply wrote, and its fingerprint."""
    path = f"{shelf}/models/m"
    return path, json.loads(Path(path, "paramdelta.json").read_text())["fingerprint"]


def test_what_passed_gets_its_name_whole_and_signed(
    model: tuple[str, str], key: str, tmp_path: Path, snapshot: Snapshot
) -> None:
    verdict, final = judge_of(*model, tmp_path), str(tmp_path / "final")
    planned = publish(model[0], final, gates=[verdict], dry_run=True)
    assert not Path(final).exists()
    made = publish(model[0], final, gates=[verdict])
    assert snapshot(Path(final)) == snapshot(Path(model[0]))
    assert (made.kind, made.fingerprint, made.checked, made.signed) == ("model", model[1], True, True)
    assert planned.written_bytes == made.written_bytes
    assert made.written_bytes == sum(map(len, snapshot(Path(final)).values()))
    assert verify(final, key=key, require_signature=True).signed_by
    with pytest.raises(OutputExists):
        publish(model[0], final, gates=[verdict])


def test_what_was_refused_gets_no_name(model: tuple[str, str], tmp_path: Path) -> None:
    passed = judge_of(*model, tmp_path)
    refused = judge_of(*model, tmp_path / "other", GOOD, BAD)
    with pytest.raises(Refused, match=r"task:copy >= 0\.9: 0\.6 is not >= 0\.9"):
        publish(model[0], str(tmp_path / "final"), gates=[passed, refused])
    with pytest.raises(UsageError, match="without a gate"):
        publish(model[0], str(tmp_path / "final"), gates=[])
    with pytest.raises(NotFound):
        publish(model[0], str(tmp_path / "final"), gates=[str(tmp_path / "none.json")])
    assert not (tmp_path / "final").exists()


def test_a_verdict_on_another_model_lets_nothing_pass(model: tuple[str, str], tmp_path: Path) -> None:
    verdict = judge_of(model[0], "b" * 64, tmp_path)
    with pytest.raises(Refused, match="another model") as caught:
        publish(model[0], str(tmp_path / "final"), gates=[verdict])
    assert caught.value.exit_code == 4
    assert not (tmp_path / "final").exists()


def test_weights_that_were_changed_after_the_gate_are_not_published(
    model: tuple[str, str], tmp_path: Path
) -> None:
    verdict = judge_of(*model, tmp_path)
    weights = next(Path(model[0]).glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CorruptFile):
        publish(model[0], str(tmp_path / "final"), gates=[verdict])
    assert not (tmp_path / "final").exists()


def test_a_model_that_does_not_say_what_it_is_is_not_published(family: Family, tmp_path: Path) -> None:
    with pytest.raises(NotACheckpoint, match="no model that apply wrote"):
        publish(family.post, str(tmp_path / "final"), gates=["v.json"])


def test_a_delta_passes_by_a_model_that_was_made_by_it(
    family: Family, model: tuple[str, str], shelf: str, tmp_path: Path
) -> None:
    verdict = judge_of(*model, tmp_path)
    made = publish(DELTA, "released/d.safetensors", gates=[verdict], store=shelf)
    assert (made.kind, made.files, made.signed) == ("delta", 2, True)
    one, two = (Path(shelf, name).read_bytes() for name in (DELTA, "released/d.safetensors"))
    assert one == two
    compute(family.base, family.new_base, "other.safetensors", store=shelf)
    with pytest.raises(Refused, match="not known to be made by this delta"):
        publish("other.safetensors", "released/o.safetensors", gates=[verdict], store=shelf)
    assert not Path(shelf, "released/o.safetensors").exists()


def test_within_an_account_the_service_copies_what_passed(
    family: Family, shelf: str, cloud: Cloud, large: str, tmp_path: Path
) -> None:
    compute(large, large, "same.safetensors", store=shelf)
    candidate, final = f"{cloud.location}/candidates/m", f"{cloud.location}/final/m"
    fingerprint = apply(large, ["same.safetensors"], candidate, store=shelf).fingerprint
    verdict = judge_of(candidate, str(fingerprint), tmp_path)
    made = publish(candidate, final, gates=[verdict])
    assert made.server_side and made.download_bytes == made.upload_bytes == 0 < made.written_bytes
    assert cloud.read("final/m/model.safetensors") == cloud.read("candidates/m/model.safetensors")
    local = publish(candidate, str(tmp_path / "m"), gates=[verdict], dry_run=True)
    assert (local.download_bytes, local.upload_bytes) == (made.written_bytes, 0)
