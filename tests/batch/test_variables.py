"""Variables of the environment: filled in where they are written, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.batch.config import read_config
from pipeline.batch.variables import fill_in
from pipeline.errors import ConfigError


def test_every_string_may_name_variables():
    content = {"a": ["${ONE}/x", {"b": "${ONE}${TWO}"}], "${ONE}": 3, "c": None}
    found, problems = fill_in(content, {"ONE": "1", "TWO": "2"})
    assert found == {"a": ["1/x", {"b": "12"}], "${ONE}": 3, "c": None}
    assert not problems


def test_what_a_variable_brings_is_not_looked_at_again():
    assert fill_in("${ONE}", {"ONE": "${TWO}", "TWO": "2"}) == ("${TWO}", [])


def test_two_dollars_are_one_that_means_itself():
    assert fill_in("$${HOME} $5", {"HOME": "/h"}) == ("${HOME} $5", [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${LOST}", "x[0]: the variable LOST is not set"),
        ("${}", "x[0]: '${}' is not a variable: write ${NAME}"),
        ("${A-B}", "x[0]: '${A-B}' is not a variable: write ${NAME}"),
    ],
)
def test_a_variable_that_is_not_there_is_a_problem_with_its_place(text, problem):
    _, problems = fill_in({"x": [text]}, {})
    assert [str(each) for each in problems] == [problem]


def test_a_config_says_all_variables_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACE", "org/base")
    step = {"id": "d", "run": "compute", "base": "${PLACE}", "post": "${POST}", "output": "${OUT}"}
    Path("c.json").write_text(json.dumps({"steps": [step]}))
    with pytest.raises(ConfigError) as caught:
        read_config("c.json")
    assert caught.value.problems == (
        "steps[0].output: the variable OUT is not set",
        "steps[0].post: the variable POST is not set",
    )
    monkeypatch.setenv("POST", "org/post")
    monkeypatch.setenv("OUT", "d.safetensors")
    assert read_config("c.json").by_id["d"].base == "org/base"
