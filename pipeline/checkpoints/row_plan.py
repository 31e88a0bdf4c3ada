"""Where each row of a vocabulary comes from when two tokenizers are aligned by token string.

Twice this is asked. *compute*: base's rows in post's order. *apply*: the new base's rows in the order of
the result, which is post's as far as post has rows, and behind them what only the new base has. Rows
without a token are padding; they are paired by position, as nothing tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.checkpoints.row_order import ABSENT
from pipeline.checkpoints.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Side:
    """A vocabulary and how many rows the tensors have for it; ids behind them have none."""

    vocabulary: Vocabulary
    rows: int

    def token(self, number: int) -> str | None:
        """The token of a row; None for padding."""
        return self.vocabulary.tokens.get(number)

    def row(self, token: str) -> int | None:
        """The row of a token, if it has one."""
        number = self.vocabulary.ids.get(token)
        return number if number is not None and number < self.rows else None


@dataclass(frozen=True, slots=True)
class RowPlan:
    """sources: for each row of the result the source's row, or `ABSENT`.

    renamed: post's tokens that stand in the place of another added token. lacking: rows whose token the
    source lacks. kept: rows below post's end that are the source's own. own: the source's tokens that
    the other side lacks, with their rows here. dropped: tokens of the source whose rows are not used.
    displaced: padding of the source that gave way to tokens.
    """

    sources: Sequence[int]
    renamed: Sequence[str] = ()
    lacking: Sequence[int] = ()
    kept: Sequence[int] = ()
    own: Sequence[tuple[str, int]] = ()
    dropped: Sequence[str] = ()
    displaced: int = 0

    @property
    def moved(self) -> int:
        """How many rows stand in another place than in the source."""
        return sum(source not in (ABSENT, row) for row, source in enumerate(self.sources))


def added_rows(plan: RowPlan, post: Side) -> dict[str, int]:
    """The source's rows of those of post's added tokens that it has, by token."""
    tokens, sources = post.vocabulary.tokens, plan.sources
    added = sorted(row for row in post.vocabulary.added if row < post.rows)
    return {tokens[row]: sources[row] for row in added if sources[row] != ABSENT}


def plan_base(base: Side, post: Side) -> RowPlan:
    """Base's rows in post's order; rows whose token base lacks are absent."""
    sources, renamed = _in_order(base, post, lambda _: True)
    lacking = [
        row for row, source in enumerate(sources) if source == ABSENT and post.token(row) is not None
    ]
    used = set(sources)
    dropped = [
        token for row in range(base.rows) if row not in used and (token := base.token(row)) is not None
    ]
    return RowPlan(sources, renamed, lacking=lacking, dropped=dropped)


def plan_result(new: Side, post: Side, is_whole: Callable[[int], bool]) -> RowPlan:
    """The new base's rows in the order of the result.

    is_whole: whether a row of the delta is post's own, so that the new base's does not count.
    """
    sources, renamed = _in_order(new, post, lambda row: not is_whole(row))
    used = {source for source in sources if source != ABSENT}
    taken = set()  # rows of the result, below post's end, that belong to a token or to the delta
    lacking = []
    dropped = []
    for row in range(post.rows):
        if is_whole(row):
            token = post.token(row)
            if sources[row] != ABSENT and token is not None:
                dropped.append(token)
            sources[row] = ABSENT
        elif sources[row] == ABSENT and post.token(row) is not None:
            lacking.append(row)
        if post.token(row) is not None:
            taken.add(row)
    kept: list[int] = []
    own: list[tuple[str, int]] = []
    behind: list[tuple[str, int]] = []
    displaced = 0
    sources += range(post.rows, new.rows)
    for row in range(new.rows):
        token = new.token(row)
        if token is None:
            displaced += row in taken
        elif row not in used:
            if row in taken:
                behind.append((token, row))
                continue
            if row < post.rows:
                sources[row] = row
                kept.append(row)
            own.append((token, row))
    while len(sources) > post.rows and sources[-1] in used:
        sources.pop()  # it stands further up: nothing is left in its place
    for token, row in behind:
        own.append((token, len(sources)))
        sources.append(row)
    return RowPlan(sources, renamed, lacking, kept, own, dropped, displaced)


def _in_order(
    source: Side, post: Side, may_be_renamed: Callable[[int], bool]
) -> tuple[list[int], list[str]]:
    """For each of post's rows the source's row of the same token, and the tokens that were renamed."""
    sources = [_row_of(source, post, row) for row in range(post.rows)]
    if any(found not in (ABSENT, row) for row, found in enumerate(sources)):
        return sources, []
    renamed = []
    for row, found in enumerate(sources):
        token = post.token(row)
        if found != ABSENT or token is None or not may_be_renamed(row):
            continue
        if _is_renamed(source, post, row):
            sources[row] = row
            renamed.append(token)
    return sources, renamed


def _row_of(source: Side, post: Side, row: int) -> int:
    token = post.token(row)
    if token is not None:
        found = source.row(token)
        return ABSENT if found is None else found
    return row if row < source.rows and source.token(row) is None else ABSENT


def _is_renamed(source: Side, post: Side, row: int) -> bool:
    """Whether an added token took the place of one that post lacks, as reserved ones are used up.

    Asked only where no other token moved, so that equal numbers mean equal places.
    """
    before = source.token(row)
    if row >= source.rows or before is None or before in post.vocabulary.ids:
        return False
    return row in source.vocabulary.added and row in post.vocabulary.added
