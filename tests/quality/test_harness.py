"""Tasks of lm-evaluation-harness on a model of the family, with task files and data of this test."""

import json
import math

import pytest
from forks import ROOT

from pipeline.operations.evaluate import evaluate
from pipeline.quality.items import read_items

pytestmark = [
    pytest.mark.harness,
    pytest.mark.filterwarnings("ignore"),  # of the harness and what it brings
]
FAMILY = ROOT / "examples" / "family"
WRITTEN = """
task: family_written
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|end|>"], max_gen_toks: 16, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - {name: stripped, filter: [{function: remove_whitespace}, {function: take_first}]}
"""
CHOSEN = """
task: family_chosen
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: ["one", "two", "three", "four", "five"]
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Task files with 32 questions of the family, and no network to ask."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    place = tmp_path / "tasks"
    place.mkdir()
    lines = (FAMILY / "heldout" / "tasks.jsonl").read_text().splitlines()[:64]
    counts = [line for line in lines if json.loads(line)["task"] == "count"]
    (place / "all.jsonl").write_text("\n".join(lines[:32]))
    (place / "counts.jsonl").write_text("\n".join(counts))
    (place / "written.yaml").write_text(WRITTEN % (place / "all.jsonl"))
    (place / "chosen.yaml").write_text(CHOSEN % (place / "counts.jsonl"))
    return place


def test_tasks_of_ones_own_are_run_offline_with_the_chat_template_and_kept_by_item(folder, tmp_path):
    report = evaluate(
        str(FAMILY / "post-v2"),
        lm_eval=["family_written,family_chosen"],
        lm_eval_tasks=str(folder),
        output=str(tmp_path / "report.json"),
        cache=str(tmp_path / "cache"),
    )
    figures = report.model.figures
    assert figures["task:family_written"].value == figures["task:family_written.exact_match_stripped"].value
    assert figures["task:family_written"].value > 0.9  # it was taught these through its template
    assert figures["task:family_written"].count == 32
    p, n = figures["task:family_chosen"].value, figures["task:family_chosen"].count
    assert figures["task:family_chosen"].standard_error == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))
    assert "task:family_chosen.acc_norm" in figures
    assert [each.kind for each in report.data] == ["harness", "harness"]
    items = read_items((tmp_path / report.items["model"]).read_bytes(), where="items")
    own = [item for item in items if item.task == "family_written"]
    assert sum(item.score for item in own) / 32 == figures["task:family_written"].value
    again = evaluate(
        str(FAMILY / "post-v2"),
        lm_eval=["family_written", "family_chosen"],
        lm_eval_tasks=str(folder),
        cache=str(tmp_path / "cache"),
    )
    assert again.scores == report.scores


def test_a_template_can_not_leave_its_sandbox(folder):
    text = WRITTEN.replace("{{prompt}}", "{{ ''.__class__.__mro__ }}") % (folder / "all.jsonl")
    (folder / "written.yaml").write_text(text)
    with pytest.raises(Exception, match="unsafe|access"):
        evaluate(
            str(FAMILY / "post-v2"),
            lm_eval=["family_written"],
            lm_eval_tasks=str(folder),
            cache="off",
        )
