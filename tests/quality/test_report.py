"""The report of an evaluation is read as it was written, and nothing else is taken for one."""

import json
import math

import pytest

from pipeline.errors import CorruptFile
from pipeline.quality.report import DataSet, Evaluation, Measurement, Scores

FIGURES = {
    "bits_per_byte:prose": Measurement(1.25, 0.01, 40),
    "perplexity": Measurement(math.nan, None, 0),
    "task:copy": Measurement(0.5, 0.05, 100),
}
REPORT = Evaluation(
    scores={"model": Scores("./m", "a" * 64, FIGURES), "base": Scores("./b", "b" * 64, {})},
    data=(DataSet("prose", "text", "c" * 64, 40),),
    settings={"seed": 1},
    items={"model": "items.jsonl"},
    seconds=1.5,
    started="2026-11-22T00:00:00+00:00",
)


def test_what_was_written_is_read():
    again = Evaluation.from_json(REPORT.to_json(), where="r.json")
    assert again.to_json() == REPORT.to_json()
    assert again.model.figures["task:copy"] == FIGURES["task:copy"]
    assert math.isnan(again.model.figures["perplexity"].value)


def test_the_file_is_strict_json():
    assert "NaN" not in REPORT.to_json()


def without(name: str) -> str:
    raw = json.loads(REPORT.to_json())
    del raw[name]
    return json.dumps(raw)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "{", "{}", '{"format": "other"}', "[" * 100_000,
        REPORT.to_json().replace("paramdelta-evaluation/1", "paramdelta-evaluation/9"),
        REPORT.to_json().replace('"model"', '"nobody"'),
        REPORT.to_json().replace("1.25", '"much"'),
        without("scores"), without("data"), without("settings"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(text):
    with pytest.raises(CorruptFile, match=r"r\.json"):
        Evaluation.from_json(text, where="r.json")
