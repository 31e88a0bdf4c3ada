"""A report is judged by conditions: every comparison with both values, and nothing passes unmeasured."""

from __future__ import annotations

import json
import math
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality.evaluations import evaluation

from pipeline.errors import CorruptFile, UsageError
from pipeline.quality.conditions import parse_condition
from pipeline.quality.gate import Judgement, judge
from pipeline.quality.report import DataSet, Evaluation
from pipeline.quality.verdict import Verdict

REPORT = evaluation(
    model={
        "task:copy": (0.6, 0.03), "task:add": (0.5, 0.03), "task:copy.normalised": (0.1, 0.01),
        "task.mean": (0.55, 0.02), "bits_per_byte": (1.30, 0.01), "kl:prose.p99": 0.2,
        "kl:code.p99": 0.4, "perplexity": math.nan, "finite": 1.0, "gap_recovered.mean": 0.75,
    },
    base={"task:copy": (0.5, 0.04), "task:add": (0.55, 0.04), "bits_per_byte": (1.28, 0.01)},
    reference={"task:copy": (0.9, 0.01), "task:add": (0.0, 0.01)},
)  # fmt: skip


def judged(text: str, report: Evaluation = REPORT) -> tuple[Judgement, ...]:
    return judge(report, [parse_condition(text)])


@pytest.mark.parametrize(
    ("text", "left", "right", "passed"),
    [
        ("task:copy >= base", 0.6, 0.5, True),
        ("task:copy >= base.task:add", 0.6, 0.55, True),
        ("task:add >= base", 0.5, 0.55, False),
        ("task:add >= base - 2se", 0.5, 0.55 - 2 * 0.05, True),
        ("bits_per_byte <= 1.02 * base", 1.30, 1.02 * 1.28, True),
        ("bits_per_byte <= 1.01 * base", 1.30, 1.01 * 1.28, False),
        ("(task:copy - base) / (reference - base) >= 0.24", 0.25, 0.24, True),
        ("gap_recovered.mean >= 0.7", 0.75, 0.7, True),
        ("kl:prose.p99 < 0.2", 0.2, 0.2, False),
        ("kl:prose.p99 <= 0.2", 0.2, 0.2, True),
        ("finite == 1", 1.0, 1.0, True),
        ("0.7 > task:copy", 0.7, 0.6, True),
        ("-task:copy < -base", -0.6, -0.5, True),
    ],
)
def test_both_sides_are_said(text, left, right, passed):
    (found,) = judged(text)
    assert (found.left, found.right) == pytest.approx((left, right))
    assert found.passed is passed
    assert (found.condition, found.comparison) == (text, text)
    assert ("not" in found.why) is not passed


def test_the_standard_error_is_that_of_all_figures_in_the_comparison():
    (found,) = judged("task:add >= base - 2se")
    assert found.standard_error == pytest.approx(math.hypot(0.03, 0.04))
    (found,) = judged("task:add - 0.5 * base >= reference - se")
    assert found.standard_error == pytest.approx(math.sqrt(0.03**2 + 0.04**2 + 0.01**2))
    (found,) = judged("task:add + task:add >= se")  # one figure, however often it is named
    assert found.standard_error == pytest.approx(0.03)
    assert judged("task:add >= base")[0].standard_error is None
    assert {name: each.value for name, each in found.figures.items()} == {"task:add": 0.5}


def test_a_star_is_every_set_and_each_is_judged_alone():
    found = judged("every task >= base - 0.01")
    assert [(each.comparison, each.passed) for each in found] == [
        ("task:copy >= base - 0.01", True),
        ("task:add >= base - 0.01", False),
    ]
    assert [each.comparison for each in judged("1 > kl:*.p99")] == [
        "1 > kl:prose.p99",
        "1 > kl:code.p99",
    ]
    shown = [each.comparison for each in judged("task:* - base.task:* < 1 and finite == 1")]
    assert shown == ["task:copy - base.task:copy < 1", "task:add - base.task:add < 1", "finite == 1"]


def test_a_star_goes_through_tasks_with_dots_but_not_through_statistics():
    data = (DataSet("hellaswag", "harness", "d" * 64, 10), DataSet("mine", "task", "e" * 64, 10))
    names = ["task:hellaswag", "task:hellaswag.acc_norm,none", "task:code", "task:code.python"]
    report = evaluation(data=data, model=dict.fromkeys([*names, "task:code.normalised"], 0.5))
    shown = {each.comparison for each in judged("every task > 0", report)}
    assert shown == {"task:hellaswag > 0", "task:code > 0", "task:code.python > 0"}


def test_a_task_that_only_the_base_was_measured_on_is_not_passed_over():
    report = evaluation(model={"task:a": 1.0}, base={"task:a": 1.0, "task:b": 1.0})
    with pytest.raises(UsageError, match="the model has no figure 'task:b'"):
        judged("every task >= base", report)


@pytest.mark.parametrize(
    "text", ["perplexity > 0", "perplexity < 9", "perplexity == perplexity", "9 > perplexity"]
)
def test_what_is_no_number_passes_nothing(text):
    (found,) = judged(text)
    assert not found.passed and "no finite number" in found.why
    assert None in (found.left, found.right)


@pytest.mark.parametrize(
    "text", ["task:copy / (base - base) > 0", "task:copy * 1e308 * 1e308 > 0", "0 < 1 / (finite - 1)"]
)
def test_what_divides_by_zero_or_grows_without_end_passes_nothing(text):
    assert not judged(text)[0].passed


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("task:cpoy > 0", r"column 1: the model has no figure 'task:cpoy': did you mean task:copy\?"),
        ("task:copy >= base.task:cpoy", "column 14: the base has no figure"),
        ("kl:prose.p99 <= base", "column 17: the base has no figure 'kl:prose.p99'"),
        ("task:copy >= donor", "column 14: no donor was measured"),
        ("every flips < 1", r"has no figure 'flips:\*'"),
        ("kl:prose.p99 < 3se", "kl:prose.p99 has no standard error"),
        ("finite >= 1 - se", "finite has no standard error"),
    ],
)
def test_what_was_not_measured_is_an_error_with_its_place(text, what):
    with pytest.raises(UsageError, match=what):
        judged(text)


def test_all_errors_are_said_at_once():
    conditions = [parse_condition(text) for text in ("task:x > donor", "finite == 1", "flips < 0.1")]
    with pytest.raises(UsageError) as caught:
        judge(REPORT, conditions)
    assert all(part in str(caught.value) for part in ("'task:x'", "donor", "'flips'"))


NUMBERS = st.floats(0.001, 1000, allow_nan=False).map(lambda x: round(x, 3))
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@st.composite
def sums(draw: st.DrawFn, depth: int = 3) -> tuple[str, float]:
    """A term in full brackets, and its value by Python's own arithmetic."""
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from([("task:copy", 0.6), ("base", 0.5), ("bits_per_byte", 1.3)]))
    if draw(st.booleans()):
        number = draw(NUMBERS)
        return repr(number), number
    (left, a), (right, b) = draw(sums(depth=depth - 1)), draw(sums(depth=depth - 1))
    sign = draw(st.sampled_from(sorted(SIGNS)))
    return f"({left} {sign} {right})", SIGNS[sign](a, b) if sign != "/" or b else math.nan


@settings(max_examples=60, deadline=None, database=None)
@given(left=sums(), right=NUMBERS)
def test_arithmetic_is_that_of_floating_point(left, right):
    text, value = left
    text = text.replace("base", "base.task:copy")
    if "task:copy" not in text.replace("base.task:copy", "") and "bits" not in text:
        text = f"({text} + task:copy * 0)"
    (found,) = judged(f"{text} > {right!r}")
    assert found.left == (value if math.isfinite(value) else None)
    assert found.passed is (value > right)


# -- the file -------------------------------------------------------------------------------------------


def verdict(*texts: str) -> Verdict:
    judgements = judge(REPORT, [parse_condition(text) for text in texts])
    return Verdict("r.json", "d" * 64, "./model", "a" * 64, texts, judgements)


def test_a_verdict_is_read_as_it_was_written():
    written = verdict("every task >= base - 2se", "finite == 1", "perplexity > 0")
    again = Verdict.from_json(written.to_json(), where="v.json")
    assert again.to_json() == written.to_json()
    assert "NaN" not in written.to_json()
    assert not again.passed and again.refusals == ("perplexity > 0: the left side is no finite number",)
    assert verdict("finite == 1").passed


def test_a_verdict_without_a_judgement_passes_nothing():
    assert not Verdict("r.json", "d" * 64, "./model", "a" * 64, (), ()).passed


def changed(name: str, value: object) -> str:
    return json.dumps({**json.loads(verdict("finite == 1").to_json()), name: value})


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "{}", "[" * 100_000, '{"format": "other"}', REPORT.to_json(),
        changed("passed", False), changed("passed", 1), changed("passed", "true"),
        changed("judgements", []),
        changed("judgements", [{"passed": True}]), changed("fingerprint", None), changed("require", 3),
        changed("format", "paramdelta-gate/9"),
    ],
)  # fmt: skip
def test_anything_else_is_no_verdict(text):
    with pytest.raises(CorruptFile, match=r"v\.json"):
        Verdict.from_json(text, where="v.json")
