"""The README's table of cases: each line is a test, by its name."""

from __future__ import annotations

import ast
import re
from collections import Counter

from sources import ROOT

HEAD = "| case | what happens | test |"


def table() -> list[list[str]]:
    """The cells of each line."""
    text = (ROOT / "README.md").read_text().partition(HEAD)[2].partition("\n\n")[0]
    lines = text.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def named() -> Counter[str]:
    """How many test functions have each name."""
    return Counter(
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    )


def test_each_case_is_a_test() -> None:
    rows, known = table(), named()
    assert len(rows) > 30
    for case, happens, cell in rows:
        assert case and happens
        (name,) = re.findall(r"`(test_\w+)`", cell)
        assert known[name] == 1, name


def test_each_row_of_what_goes_wrong_is_a_test() -> None:
    known = named()
    for number in range(1, 12):
        assert any(name.startswith(f"test_row_{number}_") for name in known), number
