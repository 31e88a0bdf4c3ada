"""evaluate measures what a model can do; on the family, what an independent script finds, too."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from forks import ROOT
from typer.testing import CliRunner

import cli
from pipeline.errors import CorruptFile, NotFound, OutputExists, UsageError
from pipeline.operations.evaluate import evaluate
from pipeline.operations.evaluating.cache import Cache, key_of
from pipeline.quality.items import read_items
from pipeline.quality.report import Evaluation

FAMILY = ROOT / "examples" / "family"
BASE, POST, OTHER = (str(FAMILY / name) for name in ("base-v2", "post-v2", "post-v1"))
PROMPTS = 48


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first of the family's held-out questions."""
    path = tmp_path_factory.mktemp("data") / "tasks.jsonl"
    lines = (FAMILY / "heldout" / "tasks.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:PROMPTS]))
    return str(path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache that the tests of this module share: the models are measured once."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def report(tasks: str, kept: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """post-v1 as the model that is judged, held against all others; and where that was written."""
    place = tmp_path_factory.mktemp("reports") / "report.json"
    done = evaluate(
        OTHER, data=[tasks], reference=POST, base=BASE, donor=POST, donor_base=BASE,
        output=str(place), cache=kept,
    )  # fmt: skip
    return done, place


@pytest.fixture(scope="module")
def script() -> object:
    """examples/family/evaluate.py, which uses nothing of the product."""
    folder = str(FAMILY)
    sys.path.insert(0, folder)
    try:
        import importlib.util

        spec = importlib.util.spec_from_file_location("family_script", FAMILY / "evaluate.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look there
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)
        for name in ("family_script", "tasks", "prose"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(("role", "folder"), [("model", OTHER), ("base", BASE)])
def test_scores_are_those_of_a_plain_script(report, script, monkeypatch, role, folder):
    monkeypatch.setattr(script, "bits_per_byte", lambda *_: 0.0)  # `measure_text` has tests of its own
    figures = report[0].scores[role].figures
    for name, score in script.evaluate(folder, PROMPTS).tasks.items():
        assert figures[f"task:{name}"].value == score.value
        assert figures[f"task:{name}"].count == score.count


def test_the_family_s_questions_are_those_that_the_script_asks(script):
    lines = (FAMILY / "heldout" / "tasks.jsonl").read_text().splitlines()
    asked = [(raw["task"], raw["prompt"], raw["answer"]) for raw in map(json.loads, lines)]
    examples = script.tasks.held_out_examples(len(lines))
    assert asked == [(each.task, each.prompt, each.answer) for each in examples]


def test_a_report_says_what_was_measured_and_holds_the_model_against_the_others(report):
    done, place = report
    written = Evaluation.from_json(place.read_text(), where=str(place))
    assert written.scores == done.scores
    assert list(done.scores) == ["model", "base", "reference", "donor_base", "donor"]
    assert done.scores["reference"].fingerprint == done.scores["donor"].fingerprint
    assert done.data[0].name == "tasks" and done.data[0].items == PROMPTS
    assert done.settings["device"] in ("cpu", "cuda") and done.settings["seed"] == 0
    figures = done.model.figures
    assert figures["gap_recovered.mean"].value == pytest.approx(
        figures["task.mean"].value
    )  # from 0 to 1
    assert math.isnan(figures["transfer_slope"].value)  # the donor does all tasks alike
    assert done.scores["base"].figures["eos_rate"].value == 0
    assert figures["eos_rate"].value == 1
    assert "flips" in figures and "flips" not in done.scores["base"].figures


def test_items_lie_beside_the_report_and_give_its_figures(report):
    done, place = report
    for role, name in done.items.items():
        items = read_items((place.parent / name).read_bytes(), where=name)
        assert len(items) == PROMPTS
        repeat = [item.score for item in items if item.task == "repeat"]
        assert done.scores[role].figures["task:repeat"].value == sum(repeat) / len(repeat)
    model = read_items((place.parent / done.items["model"]).read_bytes(), where="model")
    assert all(item.ended and item.given is not None for item in model)


def test_the_same_again_is_not_measured_again(report, tasks, kept, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("pipeline.operations.evaluating.models.load_subject", refuse)
    again = evaluate(
        OTHER, data=[tasks], reference=POST, base=BASE, donor=POST, donor_base=BASE, cache=kept
    )
    assert (
        again.to_json()
        == replace(report[0], items={}, seconds=again.seconds, started=again.started).to_json()
    )
    with pytest.raises(AssertionError, match="loaded"):  # other settings are other results
        evaluate(OTHER, data=[tasks], batch_size=3, cache=kept)


def test_batches_of_any_size_give_the_same_answers(tasks, report):
    alone = evaluate(OTHER, data=[tasks], batch_size=5, dtype="float32", cache="off")
    for name, figure in alone.model.figures.items():
        assert report[0].model.figures[name].value == pytest.approx(figure.value, abs=0.17), name
    assert alone.model.figures["task.mean"].value > 0.9


def test_multiple_choice_and_patterns_and_text_are_measured_together(tmp_path):
    questions = [
        {"task": "number", "prompt": f"count: {words}", "choices": ["two", "three", "four"], "answer": n}
        for n, words in enumerate(("cat cup", "cat cup bag", "cat cup bag key"))
    ]
    questions.append({"prompt": "count: cat cup", "pattern": "tw.|three", "task": "seen"})
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "t.jsonl").write_text(
        '{"text": "A road to the river."}\n{"text": "The house is gold."}\n'
    )
    done = evaluate(
        POST,
        data=[f"mine={tmp_path / 'q.jsonl'}", str(tmp_path / "t.jsonl")],
        reference=OTHER,
        cache="off",
    )
    figures = done.model.figures
    assert figures["task:number"].value == figures["task:number.normalised"].value == 1
    assert figures["task:seen"].value == 1
    assert figures["eos_rate"].count == 1  # of what was generated
    assert figures["bits_per_byte:t"].value > 0 and figures["kl:t.mean"].value > 0
    assert [(each.name, each.kind) for each in done.data] == [("mine", "task"), ("t", "text")]


def test_metrics_can_be_chosen(tasks, kept):
    done = evaluate(OTHER, data=[tasks], metrics=["task,flips"], reference=POST, cache=kept)
    assert {name.partition(":")[0].partition(".")[0] for name in done.model.figures} == {"task", "flips"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"metrics": ["accuracy"]}, "not a metric"),
        ({"metrics": ["flips"]}, "--reference"),
        ({"metrics": ["gap_recovered"], "reference": POST}, "--base"),
        ({"metrics": ["transfer_slope"]}, "--donor-base"),
        ({"metrics": ["kl"], "reference": POST}, "text"),
        ({"batch_size": 0}, "batch"), ({"dtype": "int8"}, "dtype"), ({"device": "tpu"}, "device"),
    ],
)  # fmt: skip
def test_what_can_not_be_measured_is_said_before_anything_is(tasks, given, said):
    with pytest.raises(UsageError, match=said):
        evaluate(POST, data=[tasks], cache="off", **given)


def test_data_are_named_once_and_hold_each_task_once(tasks, tmp_path):
    with pytest.raises(UsageError, match="the name 'tasks'"):
        evaluate(POST, data=[tasks, tasks], cache="off")
    with pytest.raises(UsageError, match="the task 'repeat'"):
        evaluate(POST, data=[tasks, f"again={tasks}"], cache="off")
    with pytest.raises(UsageError, match="nothing to measure"):
        evaluate(POST, cache="off")
    with pytest.raises(NotFound):
        evaluate(POST, data=[str(tmp_path / "none.jsonl")], cache="off")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(CorruptFile, match=r"bad\.jsonl.*line 1: answer is missing"):
        evaluate(POST, data=[str(tmp_path / "bad.jsonl")], cache="off")


def test_a_report_is_never_overwritten_silently(report, tasks, kept):
    _, place = report
    before = place.read_bytes()
    with pytest.raises(OutputExists):
        evaluate(OTHER, data=[tasks], output=str(place), cache=kept)
    assert place.read_bytes() == before
    copied = place.with_name("second.json")
    evaluate(OTHER, data=[tasks], output=str(copied), cache=kept)
    evaluate(OTHER, data=[tasks], output=str(copied), cache=kept, overwrite=True)
    copied.unlink()
    with pytest.raises(OutputExists, match=r"second\.model\.items"):
        evaluate(OTHER, data=[tasks], output=str(copied), cache=kept)


def test_a_dry_run_reads_headers_and_data_and_writes_nothing(tasks, tmp_path):
    done = evaluate(
        POST,
        data=[tasks],
        base=BASE,
        output=str(tmp_path / "r.json"),
        cache=str(tmp_path / "c"),
        dry_run=True,
    )
    assert not list(tmp_path.iterdir())
    assert done.scores["base"].figures == {} and done.data[0].items == PROMPTS
    with pytest.raises(CorruptFile):
        (tmp_path / "bad.jsonl").write_text("{")
        evaluate(POST, data=[str(tmp_path / "bad.jsonl")], dry_run=True)


def test_a_report_in_a_container_has_its_items_beside_it(cloud, tasks, kept, report):
    done = evaluate(OTHER, data=[tasks], output=f"{cloud.location}/reports/r.json", cache=kept)
    assert set(cloud.names()) == {"reports/r.json", f"reports/{done.items['model']}"}


def test_a_cache_gives_back_what_was_put_and_nothing_else(tmp_path):
    cache, key = Cache(tmp_path / "c"), key_of(model="m")
    assert cache.get(key) is None
    cache.put(key, [{"a": 1.5}])
    assert cache.get(key) == [{"a": 1.5}]
    (path,) = (tmp_path / "c").iterdir()
    good = path.read_bytes()
    for bad in (good[:-1], b"", good.replace(b"1.5", b"2.5"), b"x" * 100):
        path.write_bytes(bad)
        assert cache.get(key) is None
    cache.put(key, [{"a": math.nan}])
    assert cache.get(key) is None
    assert key_of(model="m", how={"seed": 1}) != key_of(model="m", how={"seed": 2})


def test_what_a_cache_says_is_checked_before_it_is_believed(tasks, kept, report, tmp_path):
    from blake3 import blake3

    folder = tmp_path / "hostile"
    folder.mkdir()
    for path in Path(kept).iterdir():
        body = b'[{"task": "repeat", "score": "1"}]'
        (folder / path.name).write_bytes(blake3(body).hexdigest().encode() + b"\n" + body)
    done = evaluate(OTHER, data=[tasks], cache=str(folder))
    assert done.model.figures["task:first"] == report[0].model.figures["task:first"]


def test_the_command_prints_a_table_or_the_report(tasks, kept, report):
    def run(*words: str) -> Result:
        return CliRunner().invoke(cli.app, ["evaluate", OTHER, *words, "--cache", kept])

    shown = run("--base", BASE, "--data", tasks)
    assert shown.exit_code == 0, shown.output
    assert "task:repeat" in shown.output and "±" in shown.output and "base" in shown.output
    printed = run("--data", tasks, "--metrics", "task", "--format", "json").output
    figures = Evaluation.from_json(printed, where="stdout").model.figures
    assert figures["task.mean"] == report[0].model.figures["task.mean"]
    assert isinstance(run().exception, UsageError)
