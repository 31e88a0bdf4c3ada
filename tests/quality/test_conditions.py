"""Conditions are read or refused with the place; nothing in them is ever run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.quality import report
from pipeline.quality.conditions import MAX_CHARACTERS, MAX_DEPTH, parse_condition
from pipeline.quality.terms import METRICS, Chain, Figure, Number, StandardError

COUNT = int(os.environ.get("GATE_EXPRESSIONS", "300"))  # 10,000 now and then
VALID = [
    "task:ifeval >= base - 2se",
    "gap_recovered.mean >= 0.7",
    "bits_per_byte <= 1.02 * base",
    "eos_rate >= 0.99",
    "kl:prose.p99 < 0.5",
    "every task >= base - 2se",
    "task:* >= reference - 0.05",
    "every kl.p99 < .5",
    "same_top >= 0.9 and finite == 1",
    'task:"five shot (chat)".normalised > -0.5 * (reference.task:x - base.task:x)',
    "task:arc-easy >= donor_base.task:arc-easy + 2 * se",
    "task:ifeval.prompt_level_strict_acc,none >= base-1.5se",
    "flips:copy.lost\n  <= 1e-2\tand flips < donor / 2",
]


def names(text: str) -> list[list[tuple[str, str | None]]]:
    found = parse_condition(text).comparisons
    return [[(each.role, each.name) for each in comparison.figures] for comparison in found]


@pytest.mark.parametrize("text", VALID)
def test_what_gates_say_is_read(text):
    assert parse_condition(text).text == text


def test_names_are_figures_of_roles():
    assert names("task:x >= base.task:y - donor_base + reference") == [
        [("model", "task:x"), ("base", "task:y"), ("donor_base", None), ("reference", None)]
    ]
    assert names('model.task:x > 0 and task:"a.b c".normalised > 0') == [
        [("model", "task:x")],
        [("model", "task:a.b c.normalised")],
    ]
    assert names("every task.normalised > base") == [[("model", "task:*.normalised"), ("base", None)]]


def test_products_are_taken_before_sums_and_both_from_the_left():
    (comparison,) = parse_condition("task - 1 - 2 * 3 / 4 >= (1 + 2) * 2se").comparisons
    one, two, three, four = (Number(float(n)) for n in range(1, 5))
    task = Figure("model", "task", 0, 4)
    assert comparison.left == Chain(task, (("-", one), ("-", Chain(two, (("*", three), ("/", four))))))
    errors = Chain(two, (("*", StandardError()),))
    assert comparison.right == Chain(Chain(one, (("+", two),)), (("*", errors),))


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("", "line 1, column 1", "ends where there should be a figure"),
        ("task:x", "line 1, column 7", "ends where there should be a comparison"),
        ("task:x >= (base", "line 1, column 16", "closing bracket"),
        ("task:x >= base)", "line 1, column 15", "or the end"),
        ("task:x >= 1 and", "line 1, column 16", "ends"),
        ("task:x\n  >= base\n  - 2zz", "line 3, column 6", ""),
        ("task:x => base", "line 1, column 8", "means nothing here"),
        ("task:x >= 1 >= 0", "line 1, column 13", ""),
        ("task:x >= base; import os", "line 1, column 15", "means nothing here"),
        ("task:x >= __import__('os')", "line 1, column 21", ""),
        ("tsk:x >= 1", "line 1, column 1", "did you mean task?"),
        ("task:x >= refrence", "line 1, column 11", "did you mean reference?"),
        ("task:x >= base.tsk:x", "line 1, column 11", "did you mean task?"),
        ("1 >= 0", "line 1, column 1", "compares no figure of the model"),
        ("base >= 0", "line 1, column 1", "compares no figure of the model"),
        ("se >= 0", "line 1, column 1", "compares no figure of the model"),
        ("model >= 0", "line 1, column 1", "name a figure of it"),
        ("task:x - task:y >= base", "line 1, column 20", "write base.task:x"),
        ("task:* >= kl:*.p99", "line 1, column 11", "one figure only"),
        ("every task:x >= 1", "line 1, column 1", "a metric alone"),
        ("task:x >= 1e999", "line 1, column 1", "too large"),
        ("task:x >= --1", "line 1, column 12", ""),
        ('task:"x >= 1', "line 1, column 5", "means nothing here"),
    ],
)
def test_what_makes_no_sense_is_shown_with_its_place(text, place, what):
    with pytest.raises(UsageError) as caught:
        parse_condition(text)
    assert caught.value.what.startswith(f"{place}: ")
    assert what in caught.value.what
    assert caught.value.exit_code == 2
    assert_points_into(text, caught.value)


def assert_points_into(text: str, error: UsageError) -> None:
    """Line and column are the caret's, and without it the text is as it was given."""
    shown = (error.hint or "").removeprefix("at the caret: ")
    found = re.match(r"line (\d+), column (\d+): ", error.what)
    assert found is not None
    line, column = map(int, found.groups())
    assert any(
        shown[:at] + shown[at + 1 :] == text
        and (shown[:at].count("\n") + 1, at - shown.rfind("\n", 0, at)) == (line, column)
        for at in (match.start() for match in re.finditer(r"\^", shown))
    )


def test_length_and_depth_are_bounded():
    def nested(depth: int) -> str:
        return f"task:x >= {'(' * depth}1{')' * depth}"

    assert parse_condition(nested(MAX_DEPTH))
    with pytest.raises(UsageError, match=rf"column {11 + MAX_DEPTH}: more than {MAX_DEPTH} brackets"):
        parse_condition(nested(MAX_DEPTH + 1))
    longest = "task:x >= 1".ljust(MAX_CHARACTERS)
    assert parse_condition(longest)
    with pytest.raises(UsageError, match="501 characters"):
        parse_condition(longest + " ")
    long_chain = "task:x >= 1" + "+1" * ((MAX_CHARACTERS - 11) // 2)
    assert parse_condition(long_chain)


def test_the_metrics_are_those_that_reports_may_have():
    table = (report.__doc__ or "").partition("|---|")[2]
    said = {
        name for row in table.splitlines() for name in re.findall(r"`([a-z_]+)", row.split(" | ")[0])
    }
    assert said == set(METRICS)


# -- 10,000 of them -------------------------------------------------------------------------------------

TEXTS = [
    "__import__('os').system('true')", "exec", "eval(", "open('x','w')", "lambda: 0", "{}", "[0]",
    "`id`", "$(id)", "%s", "os.environ", "().__class__", "\\", "\x00", "\ud800", "∆", "≥", "#", "'",
    '"', "@", ";", "==", ">=", "<", "(", ")", "*", "/", "-", ":", ".", ",", "^", "and", "every", "se",
    "base", "model", "task:*", "1e9", "0" * 40, "\n", " ",
]  # fmt: skip


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """A valid condition with pieces cut out, doubled, or put in."""
    text = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 8)))
        piece = draw(st.one_of(st.just(""), st.just(text[start:end] * 2), st.sampled_from(TEXTS)))
        text = text[:start] + piece + text[end:]
    return text


expressions = st.one_of(
    mutations(),
    st.lists(st.sampled_from([*TEXTS, *VALID]), max_size=12).map(" ".join),
    st.text(max_size=80),
)
RUNS = {"exec", "compile", "import", "open", "os.system", "subprocess.Popen", "socket.connect"}
watching: list[list[str]] = []


@contextmanager
def watched() -> Iterator[list[str]]:
    """What the interpreter is asked to run, import or open within the block."""
    seen: list[str] = []
    watching.append(seen)
    try:
        yield seen
    finally:
        watching.pop()


@pytest.fixture(scope="module")
def hook() -> None:
    def note(event: str, arguments: object) -> None:
        if watching and event in RUNS:
            watching[-1].append(event)

    sys.addaudithook(note)  # stays for the process; it does nothing unless somebody watches


@settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(text=expressions)
def test_whatever_is_written_is_read_or_refused_with_its_place_and_never_run(hook, text):
    with watched() as seen:
        try:
            condition = parse_condition(text)
        except UsageError as error:
            if len(text) <= MAX_CHARACTERS:
                assert_points_into(text, error)
        else:
            assert condition.text == text and condition.comparisons
    assert not seen


def test_what_is_run_would_be_seen(hook):
    with watched() as seen:
        exec("1")
    assert "exec" in seen
