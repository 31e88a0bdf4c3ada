"""Text that comes from files and people, in the Markdown of cards: shown, never markup."""

from __future__ import annotations


def as_code(text: str) -> str:
    """`text` as inline code, in one line that it can't break out of."""
    return "`" + "".join(each if each.isprintable() else " " for each in text).replace("`", "'") + "`"


def as_cell(text: str) -> str:
    """`as_code` inside a table."""
    return as_code(text).replace("|", "\\|")
