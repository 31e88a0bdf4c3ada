"""analysis.json: what is written is read again, and nothing else is taken for it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from analysis.examples import analysis_of

from pipeline.analysis.report import FORMAT, Analysis
from pipeline.errors import CorruptFile


def test_what_is_written_is_read_again():
    made = analysis_of(layers=3, deltas=3)
    text = made.to_json()
    read = Analysis.from_json(text, where="analysis.json")
    assert read.to_json() == text
    assert read.deltas[0].tensors[1].spectrum == made.deltas[0].tensors[1].spectrum


def test_what_is_no_finite_number_is_null():
    made = analysis_of()
    delta = replace(made.deltas[0], total=replace(made.deltas[0].total, l2=math.inf))
    raw = json.loads(replace(made, deltas=[delta]).to_json())
    assert raw["format"] == FORMAT
    assert raw["deltas"][0]["total"]["l2"] is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "other/1"}',
        json.dumps({"format": FORMAT, "deltas": [1], "pairs": []}),
    ],
)
def test_anything_else_is_refused_with_its_name(text):
    with pytest.raises(CorruptFile, match=r"there\.json"):
        Analysis.from_json(text, where="there.json")
