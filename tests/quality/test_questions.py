"""Questions are read as they are written; a file that is wrong is refused, with every wrong line."""

import json

import pytest

from pipeline.errors import CorruptFile
from pipeline.quality.answers import is_same, matches
from pipeline.quality.questions import MAX_NEW_TOKENS, parse_questions


def lines(*questions: object) -> bytes:
    return "\n".join(each if isinstance(each, str) else json.dumps(each) for each in questions).encode()


def test_each_kind_of_question_is_read():
    found = parse_questions(
        lines(
            {"prompt": "How many: a b", "answer": " two ", "task": "count", "id": "x"},
            "",
            {"prompt": "A colour?", "pattern": "red|green", "max_new_tokens": 3, "system": "Be brief."},
            {"prompt": "Water is", "choices": ["wet", "dry"], "answer": 1, "id": 7},
            {"prompt": "Fire is", "choices": ["wet", "hot"], "answer": "hot"},
        ),
        name="mine",
    )
    exact, pattern, number, text = found.questions
    assert (exact.task, exact.id, exact.kind, exact.answer) == ("count", "x", "exact", "two")
    assert exact.max_new_tokens == MAX_NEW_TOKENS
    assert (pattern.task, pattern.id, pattern.system) == ("mine", "3", "Be brief.")
    assert (pattern.answer, pattern.max_new_tokens) == ("red|green", 3)
    assert (number.id, number.right, number.is_generated) == ("7", 1, False)
    assert (text.choices, text.right) == (("wet", "hot"), 1)
    assert found.tasks == ["count", "mine"]


def test_the_digest_is_that_of_the_bytes():
    data = lines({"prompt": "a", "answer": "b"})
    assert parse_questions(data, name="x").digest == parse_questions(data, name="y").digest
    assert parse_questions(data + b"\n", name="x").digest != parse_questions(data, name="x").digest


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1"), ("[]", "not an object"), ('"x"', "not an object"), ("[" * 5000, "nested"),
        ({"answer": "b"}, "prompt is missing"), ({"prompt": "", "answer": "b"}, "prompt is empty"),
        ({"prompt": "a"}, "answer is missing"), ({"prompt": "a", "answer": " "}, "answer is empty"),
        ({"prompt": 1, "answer": "b"}, "prompt is not a text"),
        ({"prompt": "a" * 200_001, "answer": "b"}, "prompt is longer"),
        ({"prompt": "a", "answer": "b", "eval": "1"}, "nothing is known of 'eval'"),
        ({"prompt": "a", "answer": "b", "task": "../x"}, "no name of a task"),
        ({"prompt": "a", "answer": "b", "task": "a.b"}, "no name of a task"),
        ({"prompt": "a", "answer": "b", "id": [1]}, "id is neither"),
        ({"prompt": "a", "answer": "b", "max_new_tokens": 0}, "max_new_tokens"),
        ({"prompt": "a", "answer": "b", "max_new_tokens": True}, "max_new_tokens"),
        ({"prompt": "a", "pattern": "x", "answer": "b"}, "pattern goes with neither"),
        ({"prompt": "a", "pattern": "("}, "pattern is not one"),
        ({"prompt": "a", "pattern": "x" * 2001}, "pattern is longer"),
        ({"prompt": "a", "choices": ["b"], "answer": 0}, "choices is not a list of 2"),
        ({"prompt": "a", "choices": ["b", "b"], "answer": 0}, "occurs twice"),
        ({"prompt": "a", "choices": ["b", 1], "answer": 0}, "a choice is not a text"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": 2}, "from 0 to 1"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": "d"}, "neither a choice"),
        ({"prompt": "a", "choices": ["b", "c"]}, "neither a choice"),
        ('{"prompt": "a", "prompt": "b", "answer": "c"}', "a name occurs twice"),
        ('{"prompt": "\\ud800", "answer": "c"}', "line 1"),
        ("", "it has no questions"),
    ],
)  # fmt: skip
def test_a_line_that_is_wrong_is_refused(line, said):
    with pytest.raises(CorruptFile, match="1 problem") as caught:
        parse_questions(lines(line), name="set")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 600


def test_all_wrong_lines_are_told_by_number_the_first_ten_in_words():
    bad = [{"prompt": "a"}] * 12
    with pytest.raises(CorruptFile) as caught:
        parse_questions(lines({"prompt": "a", "answer": "b"}, *bad), name="set")
    text = str(caught.value)
    assert "12 problems: line 2: " in text and "line 11: " in text and "and 2 more" in text
    assert "line 12: " not in text


def test_an_id_is_its_task_s_only_one():
    same = {"prompt": "a", "answer": "b", "id": "1"}
    with pytest.raises(CorruptFile, match="line 2: id '1' occurs twice"):
        parse_questions(lines(same, same), name="set")
    assert len(parse_questions(lines(same, {**same, "task": "other"}), name="set").questions) == 2


def test_white_space_around_an_answer_is_passed_over():
    assert is_same(" two\n", "two")
    assert not is_same("two.", "two")
    assert matches(" red\n", "red|green")
    assert not matches("red or green", "red|green")
    assert matches("a\nb", "a.b")


@pytest.mark.parametrize("pattern", ["(a*)*b", "a*a*a*a*a*a*a*b", "(a|a)*b", "(a|aa)+$b"])
def test_a_pattern_that_others_take_years_for_is_answered(pattern):
    assert not matches("a" * 20_000, pattern)


@pytest.mark.parametrize("pattern", ["((a{1000}){1000}){1000}", "(?=a)b", r"(a)\1", "\ud800"])
def test_a_pattern_that_can_not_be_bounded_is_refused(pattern):
    with pytest.raises(ValueError, match="pattern is not one that RE2 takes"):
        matches("a", pattern)
