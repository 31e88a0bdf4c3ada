"""Names and locations in cards are shown as they are, and are never markup."""

import pytest

from pipeline.operations.outputs.markdown import as_cell, as_code


@pytest.mark.parametrize(
    "text", ["plain", "`a` ``b``", "one\n\n# two", "one\r\r# two", "a\u2028b", "\x1b[31m"]
)
def test_code_stays_in_its_line_and_between_its_quotes(text: str) -> None:
    shown = as_code(text)
    assert shown[0] == shown[-1] == "`" and "`" not in shown[1:-1]
    assert shown.isprintable()
    assert len(shown) == len(text) + 2


def test_in_a_table_it_stays_in_its_cell() -> None:
    assert as_cell("a|b") == r"`a\|b`"
    assert as_code("a|b") == "`a|b`"
