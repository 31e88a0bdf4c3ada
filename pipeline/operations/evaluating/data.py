"""The files that models are measured on: text, or questions; told apart by what is in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from pipeline.checkpoints.files import read_file
from pipeline.checkpoints.strict_json import parse_json
from pipeline.errors import CorruptFile, UsageError
from pipeline.quality.questions import NAME, QuestionSet, parse_questions
from pipeline.quality.texts import LINES_ENDINGS, TextSet, read_texts
from pipeline.settings import Settings
from pipeline.storage.locations import Location, Scheme, parse_model
from pipeline.storage.opening import open_parent

Data = TextSet | QuestionSet

_GIVEN_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*)=(.+)", re.DOTALL)


def read_data(words: Sequence[str], settings: Settings) -> list[Data]:
    """What "FILE" and "NAME=FILE" mean, in their order.

    Lines of JSON are text if the first has the key "text" and no "prompt", and else questions. Raises
    UsageError if two sets have one name, or two files questions of one task; CorruptFile for what is
    neither, NotFound and AccessError.
    """
    found = [_read(word, settings) for word in words]
    _refuse_twice([each.name for each in found], "sets of data have the name", "write NAME=FILE")
    tasks = [task for each in found if isinstance(each, QuestionSet) for task in each.tasks]
    _refuse_twice(tasks, "files have questions of the task", 'change "task" in one of them')
    return found


def _read(word: str, settings: Settings) -> Data:
    given = _GIVEN_NAME.fullmatch(word)
    name, location = given.groups() if given else (None, word)
    where = _place(location)
    stem = PurePosixPath(where.path).stem
    name = name or re.sub(r"[^A-Za-z0-9_-]", "_", stem).lstrip("_-")[:100]
    if not NAME.fullmatch(name):
        raise UsageError("its name makes no name of a set", where=str(where), hint="write NAME=FILE")
    is_lines = PurePosixPath(where.path).suffix.lower() in LINES_ENDINGS
    if is_lines and where.scheme is not Scheme.HUB:
        data = read_file(*open_parent(where, settings))
        if not _is_text(data):
            try:
                return parse_questions(data, name=name)
            except CorruptFile as error:
                raise CorruptFile(error.what, where=str(where), hint=error.hint) from error
    return read_texts(location, settings=settings, name=name)


def _place(location: str) -> Location:
    """Where the file is: a plain name is a local path, and what is on the Hub says `read_texts`."""
    return parse_model(location) if "://" in location else Location(Scheme.LOCAL, location)


def _is_text(data: bytes) -> bool:
    """Whether the first line that is not empty is that of a document."""
    first = next((line for line in data.split(b"\n") if line.strip()), b"")
    try:
        raw = parse_json(first)
    except ValueError:
        return False  # said by number, with all others
    return isinstance(raw, dict) and "text" in raw and "prompt" not in raw


def _refuse_twice(names: Sequence[str], what: str, hint: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two {what} {twice!r}", hint=hint)
