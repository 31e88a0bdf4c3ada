"""Variables of the environment in a config: ${NAME}, where its author has written it, nowhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.batch.problems import JsonPath, Problem

_VARIABLE = re.compile(r"\$\{(?P<name>[^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def fill_in(content: Any, environment: Mapping[str, str]) -> tuple[Any, list[Problem]]:
    """`content`, a JSON value, with the variables in its strings filled in; and what is wrong with them.

    Keys stay as they are, and what a variable brings is not looked at again. `$$` before a brace means
    one dollar: "$${HOME}" stays "${HOME}".
    """
    problems: list[Problem] = []
    return _fill(content, environment, (), problems), problems


def _fill(content: Any, environment: Mapping[str, str], path: JsonPath, problems: list[Problem]) -> Any:
    if isinstance(content, dict):
        for key in content:  # in place: it may be a dict that knows more than its items
            content[key] = _fill(content[key], environment, (*path, key), problems)
        return content
    if isinstance(content, list):
        return [
            _fill(item, environment, (*path, number), problems) for number, item in enumerate(content)
        ]
    if not isinstance(content, str) or "${" not in content:
        return content

    def value(match: re.Match[str]) -> str:
        name = match["name"]
        if content[: match.start()].endswith("$"):
            return match[0]
        if not _NAME.fullmatch(name):
            problems.append(Problem(path, f"{match[0]!r} is not a variable: write ${{NAME}}"))
        elif name not in environment:
            problems.append(Problem(path, f"the variable {name} is not set"))
        return environment.get(name, match[0])

    return _VARIABLE.sub(value, content).replace("$${", "${")
