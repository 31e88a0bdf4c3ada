"""Questions whose answers a program can judge, as people write them: a file of JSON lines.

    {"task": "count", "id": "7", "prompt": "How many: cat cup?", "answer": "two"}
    {"prompt": "Name a colour.", "pattern": "(red|green|blue)\\.?"}
    {"prompt": "Water is", "choices": ["wet", "dry"], "answer": 0}

| key | what it is |
|---|---|
| `prompt` | what the user says |
| `answer` | what a generated answer must be; of `choices` the right one, or its number, from 0 |
| `pattern` | a regular expression that the whole generated answer must match |
| `choices` | texts, of which the model should hold the right one likeliest; nothing is generated |
| `task` | what the question's result counts for; the set's name unless said otherwise |
| `id` | its name within the task; its line's number unless said otherwise |
| `system` | what the chat's system message says |
| `max_new_tokens` | bound on the generated answer; 128 unless said otherwise |

White space around generated answers, and around the texts that they are held against, is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blake3 import blake3

from pipeline.checkpoints.strict_json import is_deep, parse_json
from pipeline.errors import CorruptFile
from pipeline.quality.answers import check_pattern

Kind = Literal["exact", "pattern", "choices"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")  # what a figure's name can carry

MAX_NEW_TOKENS = 128  # unless a question says otherwise
_MOST_NEW_TOKENS = 8192
_MAX_TEXT = 200_000  # characters of a prompt, more than contexts hold; of any text here
_MAX_CHOICES = 100
_MAX_QUESTIONS = 1_000_000
_SHOWN = 10  # problems in a message
_KEYS = frozenset({"task", "id", "prompt", "answer", "pattern", "choices", "system", "max_new_tokens"})


@dataclass(frozen=True, slots=True)
class Question:
    """One question, and what is right.

    answer: the text of "exact", the pattern of "pattern". choices, right: the texts of "choices" and
    the number of the right one.
    """

    task: str
    id: str
    prompt: str
    kind: Kind
    answer: str = ""
    choices: tuple[str, ...] = ()
    right: int = 0
    system: str | None = None
    max_new_tokens: int = MAX_NEW_TOKENS

    @property
    def is_generated(self) -> bool:
        """Whether the model has to write the answer."""
        return self.kind != "choices"


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of a file. digest: BLAKE3 of its bytes, in hex."""

    name: str
    digest: str
    questions: Sequence[Question]

    @property
    def tasks(self) -> list[str]:
        """The names of its tasks, in the order in which they first occur."""
        return list(dict.fromkeys(question.task for question in self.questions))


def parse_questions(data: bytes, *, name: str) -> QuestionSet:
    """The questions in `data`, a file of JSON lines; empty lines are passed over.

    Raises CorruptFile with all lines that are wrong, by their numbers, the first ten in the message.
    """
    questions: dict[tuple[str, str], Question] = {}
    problems: list[str] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        if len(questions) == _MAX_QUESTIONS:
            problems.append(f"line {number}: more than {_MAX_QUESTIONS:,} questions")
            break
        try:
            question = _parse(parse_json(line), name, number)
            if (question.task, question.id) in questions:
                raise ValueError(f"id {question.id!r} occurs twice in task {question.task!r}")
            questions[question.task, question.id] = question
        except ValueError as error:
            problems.append(f"line {number}: {_brief(error)}")
    if not questions and not problems:
        problems.append("it has no questions")
    if problems:
        count = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        shown = "; ".join(problems[:_SHOWN])
        hint = 'a line is {"prompt": ..., "answer": ...}, or has "pattern" or "choices"'
        raise CorruptFile(f"{count}: {shown}{more}", where=name, hint=hint)
    return QuestionSet(name, blake3(data).hexdigest(), tuple(questions.values()))


def _brief(error: ValueError) -> str:
    return " ".join(str(error).split())[:200]


def _parse(raw: Any, name: str, number: int) -> Question:
    """The question that a line says. Raises ValueError."""
    if not isinstance(raw, dict) or is_deep(raw):
        raise ValueError("not an object")
    if unknown := raw.keys() - _KEYS:
        raise ValueError(f"nothing is known of {', '.join(map(repr, sorted(unknown)[:5]))}")
    task = _text(raw, "task", name)
    if not NAME.fullmatch(task):
        raise ValueError(f"{task[:40]!r} is no name of a task: letters, digits, - and _")
    given = raw.get("id", number)
    if isinstance(given, bool) or not isinstance(given, str | int) or len(str(given)) > 200:
        raise ValueError("id is neither a short text nor a number")
    kind, answer, choices, right = _wanted(raw)
    most = raw.get("max_new_tokens", MAX_NEW_TOKENS)
    if isinstance(most, bool) or not isinstance(most, int) or not 0 < most <= _MOST_NEW_TOKENS:
        raise ValueError(f"max_new_tokens is not a number from 1 to {_MOST_NEW_TOKENS}")
    system = None if raw.get("system") is None else _text(raw, "system")
    return Question(task, str(given), _text(raw, "prompt"), kind, answer, choices, right, system, most)


def _wanted(raw: Mapping[str, Any]) -> tuple[Kind, str, tuple[str, ...], int]:
    """How the answer is judged, and what is right."""
    if "pattern" in raw:
        if raw.keys() & {"answer", "choices"}:
            raise ValueError("pattern goes with neither answer nor choices")
        check_pattern(_text(raw, "pattern"))
        return "pattern", raw["pattern"], (), 0
    if "choices" not in raw:
        answer = _text(raw, "answer").strip()
        if not answer:
            raise ValueError("answer is empty")
        return "exact", answer, (), 0
    listed = raw["choices"]
    if not isinstance(listed, list) or not 2 <= len(listed) <= _MAX_CHOICES:
        raise ValueError(f"choices is not a list of 2 to {_MAX_CHOICES} texts")
    choices = tuple(_text({"a choice": each}, "a choice").strip() for each in listed)
    if not all(choices) or len(set(choices)) != len(choices):
        raise ValueError("a choice is empty, or occurs twice")
    right = raw.get("answer")
    if isinstance(right, str) and right.strip() in choices:
        return "choices", "", choices, choices.index(right.strip())
    if isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(choices):
        return "choices", "", choices, right
    raise ValueError(f"answer is neither a choice nor a number from 0 to {len(choices) - 1}")


def _text(raw: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = raw.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"{key} is missing" if value is None else f"{key} is not a text")
    if not value or len(value) > _MAX_TEXT:
        raise ValueError(f"{key} is empty" if not value else f"{key} is longer than {_MAX_TEXT:,}")
    return value
