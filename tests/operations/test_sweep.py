"""sweep: deltas at several scales, each applied, measured and let go of, and measured only once."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from conftest import ROOT
from typer.testing import CliRunner

import cli
from pipeline import apply, compute, evaluate, sweep
from pipeline.errors import CorruptFile, Mismatch, NotFound, OutputExists, StorageError, UsageError
from pipeline.operations.sweeping.making import Lasting
from pipeline.operations.sweeping.scales import DEFAULT_SCALES, name_of, parse_scales
from pipeline.quality.report import Evaluation, Measurement
from pipeline.quality.subject import load_subject
from pipeline.quality.sweep import Point, Said, Sweep, best_of, is_higher_better
from pipeline.rendering import show_sweep

FAMILY = ROOT / "examples" / "family"
BASE, REFERENCE = str(FAMILY / "base-v2"), str(FAMILY / "post-v2")
QUESTIONS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A delta, a few questions, and a cache that the tests of this module share."""
    path = tmp_path_factory.mktemp("sweep")
    compute(str(FAMILY / "base-v1"), str(FAMILY / "post-v1"), str(path / "d.safetensors"))
    lines = (FAMILY / "heldout" / "tasks.jsonl").read_text().splitlines(keepends=True)
    (path / "tasks.jsonl").write_text("".join(lines[:QUESTIONS]))
    return path


@pytest.fixture(scope="module")
def swept(folder: Path):
    """Scales 0 and 1, measured once for all tests."""
    return run(folder, "out", scales="0,1", reference=REFERENCE)


def run(folder: Path, name: str, **options):
    options = {"data": [str(folder / "tasks.jsonl")], "cache": str(folder / "cache"), **options}
    options = {"metrics": ["task"], "batch_size": 64, **options}
    return sweep(BASE, [str(folder / "d.safetensors")], str(folder / name), **options)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_scale_has_the_figures_of_the_very_model_that_apply_would_release(folder, swept, tmp_path):
    made = apply(BASE, [str(folder / "d.safetensors")], str(tmp_path / "model"))
    alone = evaluate(
        str(tmp_path / "model"), data=[str(folder / "tasks.jsonl")], metrics=["task"], batch_size=64,
        cache="off",
    )  # fmt: skip
    point = swept.points[1]
    assert point.fingerprint == made.fingerprint == alone.model.fingerprint
    assert point.figures == alone.model.figures
    assert point.figures["task.mean"].value > 0.9


def test_scale_0_is_the_base_itself_and_nothing_is_made_for_it(swept):
    zero = swept.points[0]
    assert (zero.scale, zero.made, swept.points[1].made) == (0, False, True)
    assert zero.figures == swept.others["base"].figures
    assert zero.fingerprint == swept.others["base"].fingerprint
    assert swept.best["task.mean"].scale == 1


def test_the_folder_has_the_report_and_of_each_scale_an_evaluation_with_its_items(folder, swept):
    out = folder / "out"
    assert files(out) == {*swept.files}
    said = json.loads((out / "sweep.json").read_text())
    assert [point["scale"] for point in said["points"]] == [0, 1]
    for point in said["points"]:
        report = Evaluation.from_json((out / point["report"]).read_text(), where="")
        assert list(report.scores) == ["model", "base", "reference"]
        figure = report.model.figures["task.mean"]
        assert point["figures"]["task.mean"]["standard_error"] == figure.standard_error
        for name in report.items.values():
            assert len((out / name).read_text().splitlines()) == QUESTIONS
    for name in ("plots/task.svg", "plots/task.png"):
        assert (out / name).stat().st_size > 1000
    assert "held-out" in said["note"]


def test_models_are_gone_once_they_are_measured(folder, swept):
    assert not [path for path in folder.rglob("*") if path.name.startswith(("model", "."))]


def test_a_second_sweep_makes_and_loads_only_the_scale_that_is_new(folder, swept, monkeypatch):
    loaded = []

    def watched(location: str, **options):
        loaded.append(location)
        return load_subject(location, **options)

    monkeypatch.setattr("pipeline.operations.evaluating.models.load_subject", watched)
    again = run(folder, "again", scales=[0.5, 1, 0], plots="none", keep=None, reference=REFERENCE)
    assert [(point.scale, point.made) for point in again.points] == [(0, False), (0.5, True), (1, False)]
    assert [Path(each).name for each in loaded] == ["scale-0.5"]
    assert again.points[2].figures == swept.points[1].figures
    assert again.points[0].figures == swept.points[0].figures


def test_a_model_that_is_known_is_made_again_for_other_data(folder, swept):
    (folder / "t.txt").write_text("A road to the river.\n")
    done = run(folder, "text", scales="1", data=[str(folder / "t.txt")], metrics=None)
    assert done.points[0].made and done.points[0].fingerprint == swept.points[1].fingerprint
    assert done.points[0].figures["bits_per_byte"].value > 0
    assert "bits_per_byte" not in done.best  # of one scale none is the best


def test_weights_of_several_deltas_are_multiplied_by_the_scale(folder, tmp_path):
    delta = str(folder / "d.safetensors")
    options = {"data": [str(folder / "tasks.jsonl")], "cache": str(folder / "cache"), "batch_size": 64}
    done = sweep(
        BASE, [(delta, 0.5), (delta, -0.25)], str(tmp_path / "out"), scales=[0.8], metrics=["task"],
        plots="none", **options,
    )  # fmt: skip
    made = apply(BASE, [(delta, 0.4), (delta, -0.2)], str(tmp_path / "model"))
    assert done.points[0].fingerprint == made.fingerprint
    assert done.deltas == [(delta, 0.5), (delta, -0.25)]


def test_models_that_are_kept_are_whole_and_only_they_stay(folder, swept, tmp_path):
    done = run(folder, "kept", scales="0,1", keep=str(tmp_path / "models"), plots="none")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["scale-1"]
    assert done.points[1].model == str(tmp_path / "models" / "scale-1")
    assert (tmp_path / "models" / "scale-1" / "tokenizer.json").is_file()
    assert done.points[0].model is None and done.disk_bytes == done.model_bytes


def test_a_kept_model_is_taken_up_if_it_is_the_very_one_and_else_refused_before_anything_is_made(
    folder, swept, tmp_path
):
    """As the sweep of a killed run is: nothing else tells of the models that it had made."""
    models, delta = tmp_path / "models", str(folder / "d.safetensors")
    apply(BASE, [(delta, 0.5)], str(models / "scale-0.5"))
    before = (models / "scale-0.5" / "paramdelta.json").stat().st_mtime_ns
    done = run(folder, "taken-up", scales="0.5,1", keep=str(models), plots="none")
    assert [point.made for point in done.points] == [False, True]
    assert (models / "scale-0.5" / "paramdelta.json").stat().st_mtime_ns == before
    apply(BASE, [(delta, 2.0)], str(models / "scale-2.5"))
    with pytest.raises(OutputExists, match=r"scale-2\.5 is of other deltas or scales"):
        run(folder, "others", scales="2.25,2.5", keep=str(models))
    assert not (models / "scale-2.25").exists()


def test_models_are_kept_behind_a_url_s_signature():
    kept = Lasting("https://account.blob.core.windows.net/models/x/?sv=1&sig=a/b")
    assert kept.place(0.5) == "https://account.blob.core.windows.net/models/x/scale-0.5?sv=1&sig=a/b"
    assert Lasting("./what?").place(1) == "./what?/scale-1"


def test_a_scale_that_makes_no_model_ends_it_and_nothing_stays(folder, swept):
    before = files(folder)
    with pytest.raises(Mismatch, match=r"at scale 1e\+300: .*beyond bfloat16"):
        run(folder, "bad", scales=[1, 1e300])
    assert not (folder / "bad").exists()
    assert {name for name in files(folder) - before if not name.startswith("cache/")} == set()


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(folder, swept):
    before = files(folder)
    planned = run(folder, "new", scales="0,0.5,1", dry_run=True)
    size = (FAMILY / "base-v2" / "model.safetensors").stat().st_size
    assert planned.disk_bytes == planned.model_bytes and abs(planned.model_bytes - size) < 5000
    assert run(folder, "new", scales="0", dry_run=True).disk_bytes == 0
    assert (
        run(folder, "new", scales="1,2", keep="./m", dry_run=True).disk_bytes == 2 * planned.model_bytes
    )
    assert files(folder) == before and not Path("m").exists()
    assert [point.scale for point in planned.points] == [0, 0.5, 1] and not planned.points[1].figures
    with pytest.raises(NotFound):
        sweep(BASE, ["./none.safetensors"], "./x", data=[str(folder / "tasks.jsonl")], dry_run=True)


def test_too_little_room_is_said_before_anything_is_read(folder, monkeypatch):
    monkeypatch.setattr("pipeline.operations.sweep.free_bytes", lambda path: 1000)
    with pytest.raises(StorageError, match="not so much room"):
        run(folder, "new", scales="1")


def test_an_output_is_never_replaced_silently(folder, swept):
    with pytest.raises(OutputExists):
        run(folder, "out", scales="0")


def test_an_output_in_a_container_leaves_nothing_on_the_disk(
    folder, swept, cloud, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = sweep(
        BASE, [str(folder / "d.safetensors")], f"{cloud.location}/sweeps/s", scales="1",
        metrics=["task"],
        data=[str(folder / "tasks.jsonl")], cache="off", batch_size=64, plots="none",
    )  # fmt: skip
    assert set(cloud.names()) >= {f"sweeps/s/{name}" for name in done.files}
    assert done.points[0].figures == swept.points[1].figures
    assert not list(tmp_path.iterdir())


def test_the_command_marks_the_best_and_warns(folder, swept):
    def call(*words: str):
        return CliRunner().invoke(
            cli.app,
            ["sweep", "--base", BASE, "--delta", str(folder / "d.safetensors"), "--batch-size", "64",
             "--data", str(folder / "tasks.jsonl"), "--metrics", "task", "--plots", "none",
             "--cache", str(folder / "cache"), "--output", str(folder / "shown"), "--overwrite", *words],
        )  # fmt: skip

    shown = call("--from", "0", "--to", "1", "--steps", "2")
    assert shown.exit_code == 0, shown.output
    assert "1.0000 ± 0 *" in shown.output and "held-out" in shown.output
    assert [
        p["scale"] for p in json.loads(call("--scales", "1", "--format", "json").output)["points"]
    ] == [1]
    assert isinstance(call("--scales", "1,x").exception, UsageError)


# -- scales and the best ----------------------------------------------------------------------------


def test_scales_are_ascending_and_each_is_there_once():
    assert parse_scales(None) == DEFAULT_SCALES
    assert parse_scales("1,0.5, 1,-0") == (0, 0.5, 1)
    assert parse_scales([2, -1.5]) == (-1.5, 2)
    assert parse_scales(None, begin=0, end=0.3, steps=4) == (0, 0.1, 0.2, 0.3)
    assert parse_scales(None, begin=-0.3, end=0.3, steps=3) == (-0.3, 0, 0.3)
    assert parse_scales(None, begin=0, end=1e-10, steps=3) == (0, 5e-11, 1e-10)
    assert name_of(0.5) == "scale-0.5" and name_of(1 / 3) == "scale-0.3333333333333333"


@pytest.mark.parametrize(
    ("scales", "range_", "said"),
    [
        ("1,x", {}, "not scales"), ("", {}, "not scales"), ([], {}, "finite"), ("nan", {}, "finite"),
        ("inf", {}, "finite"), ([None], {}, "not scales"), ("1", {"begin": 0}, "twice"),
        (None, {"begin": 0, "end": math.inf, "steps": 3}, "finite"),
        (None, {"begin": 0, "end": 1}, "part"),
        (None, {"begin": 0, "end": 1, "steps": 1}, "no range"),
        (None, {"begin": 0, "end": 1, "steps": 65}, "no range"),
        ([*range(65)], {}, "more than 64"),
    ],
)  # fmt: skip
def test_what_are_no_scales_is_refused(scales, range_, said):
    with pytest.raises(UsageError, match=said):
        parse_scales(scales, **range_)


def points(name, *figures):
    return [
        Point(scale, figures={name: Measurement(value, error)}) for scale, value, error in figures
    ]  # fmt: skip


def test_the_best_is_the_highest_or_the_lowest_as_the_figure_asks():
    found = best_of(points("task:a", (0, 0.1, 0.1), (1, 0.8, 0.1), (2, 0.75, 0.1), (3, 0.6, 0.1)))
    assert (found["task:a"].scale, found["task:a"].within) == (1, [1, 2])
    found = best_of(points("bits_per_byte:t", (0, 3.0, 0.1), (1, 2.5, None), (2, 2.6, 0.5)))
    assert (found["bits_per_byte:t"].scale, found["bits_per_byte:t"].within) == (1, [1])
    assert best_of(points("flips", (0, 1.0, 0), (1, 0.0, 0)))["flips"].scale == 1


def test_of_equals_the_best_is_the_one_nearest_to_the_base():
    assert (
        best_of(points("task.mean", (-1, 0.1, 0), (0.5, 0.8, 0), (1, 0.8, 0)))["task.mean"].scale == 0.5
    )


def test_an_unknown_error_makes_no_other_scale_as_good():
    found = best_of(points("task.mean", (0, 0.1, 0), (1, 0.8, math.nan)))
    assert (found["task.mean"].scale, found["task.mean"].within) == (1, [1])


def test_all_of_many_scales_can_be_read(capsys):
    scales = [round(0.01 * number, 2) for number in range(64)]
    found = points("task.mean", *((scale, 1 - abs(scale - 0.3), 0.01) for scale in scales))
    show_sweep(Sweep("out", "base", [("d", 1.0)], found, best=best_of(found)))
    shown = capsys.readouterr().out
    assert "1.0000 ± 0.01 *" in shown
    lines = [line for line in shown.splitlines() if line.startswith(" task.mean")]
    assert sum(line.count("±") for line in lines) == 64
    heads = [line.split() for line in shown.splitlines() if line.startswith(" figure")]
    assert [float(word) for line in heads for word in line[1:-5]] == scales


def test_what_is_the_same_everywhere_or_no_number_has_no_best():
    assert not best_of(points("finite", (0, 1.0, 0), (1, 1.0, 0)))
    assert not best_of(points("task.mean", (0, math.nan, None), (1, 0.5, 0)))
    assert is_higher_better("transfer_slope") is is_higher_better("flips:a.lost") is None


def test_only_the_report_of_a_sweep_is_read_as_one(swept):
    said = Said.from_json(swept.to_json(), where="here")
    assert said.scales == [0, 1] and said.files == swept.files
    for text in ("{", "[]", '{"format": "paramdelta-evaluation/1"}', '{"format": "paramdelta-sweep/1"}'):
        with pytest.raises(CorruptFile, match="here"):
            Said.from_json(text, where="here")


def test_what_a_cache_says_of_a_model_is_checked_before_it_is_believed(folder, swept, tmp_path):
    from blake3 import blake3

    for path in (folder / "cache").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
        if b'"fingerprint"' in path.read_bytes():
            body = b'[{"fingerprint": "../model", "key": 1}]'
            (tmp_path / path.name).write_bytes(blake3(body).hexdigest().encode() + b"\n" + body)
    done = run(folder, "believed", scales="1", cache=str(tmp_path), plots="none")
    assert done.points[0].made and done.points[0].fingerprint == swept.points[1].fingerprint
