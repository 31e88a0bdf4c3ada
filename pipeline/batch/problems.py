"""Every problem of a JSON config at once, each with the JSON path of its place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

JsonPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at one place of a config; `str()` of it is "steps[1].base: what is wrong"."""

    path: JsonPath
    text: str

    def __str__(self) -> str:
        return f"{show_path(self.path)}: {self.text}"


def show_path(path: JsonPath) -> str:
    """A path as people write it: steps[1].base; the whole document is $."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part, ensure_ascii=False)}]"
    return text or "$"


def in_order(problems: list[Problem]) -> list[str]:
    """The problems as text, each once, those of one place together."""
    ordered = sorted(problems, key=lambda problem: [(str(p), 0) if isinstance(p, str) else ("", p)
                                                    for p in problem.path])  # fmt: skip
    return list(dict.fromkeys(str(problem) for problem in ordered))


def load_json(data: bytes, *, where: str) -> tuple[Any, list[Problem]]:
    """The content of a JSON text, and a problem for each key that an object has twice.

    Raises ConfigError, with line and column, for a text that is not JSON.
    """
    try:
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_Object.of)
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}, column {error.colno}: is not JSON: {error.msg}"
        raise ConfigError([problem], where=where) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, numbers without end, nesting without end
        raise ConfigError([f"is not JSON: {error}"], where=where) from error
    return content, list(_repeated(content, ()))


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys were given more than once."""

    repeated: tuple[str, ...] = ()

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> _Object:
        found = cls(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            found.repeated = tuple(key for key in found if keys.count(key) > 1)
        return found


def _repeated(content: Any, path: JsonPath) -> Iterator[Problem]:
    if isinstance(content, _Object):
        for key in content.repeated:
            yield Problem((*path, key), "is given more than once")
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    for place, value in items:
        yield from _repeated(value, (*path, place))


def field_problems(error: ValidationError) -> list[Problem]:
    """What pydantic found wrong with single fields, in our words and without their values."""
    details = error.errors(include_url=False, include_input=False)
    return [_field_problem(item) for item in details if item["loc"] or item["type"] != "value_error"]


def _field_problem(item: ErrorDetails) -> Problem:
    path = tuple(part for part in item["loc"] if not str(part).startswith("<"))  # a kind of term
    if len(path) > 2 and path[0] == "steps":  # pydantic puts the step's kind behind its number
        path = (*path[:2], *path[3:])
    context: Mapping[str, Any] = item.get("ctx", {})
    match item["type"]:
        case "value_error":
            return Problem(path, str(context["error"]))
        case "missing":
            return Problem(path, "is missing")
        case "extra_forbidden":
            return Problem(path, "is not a key that belongs here")
        case "union_tag_not_found":
            return Problem((*path, "run"), 'is missing: it says what the step does, as "compute"')
        case "union_tag_invalid":
            return Problem((*path, "run"), f"should be one of {context['expected_tags']}")
        case "model_type" | "model_attributes_type":
            return Problem(path, "should be an object")
        case "tuple_type":
            return Problem(path, "should be a list")
    text = item["msg"].removeprefix("Input ").removeprefix("String ")
    return Problem(path, text[:1].lower() + text[1:])
