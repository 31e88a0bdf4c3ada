"""The vocabulary of a sum: the new base's rows brought to post's, and what counts in each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.alignment import check_vocabulary
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.files import GENERATION
from pipeline.checkpoints.reordered import reorder
from pipeline.checkpoints.row_order import ABSENT
from pipeline.checkpoints.row_plan import RowPlan, Side, added_rows, plan_result
from pipeline.checkpoints.special_rows import untrained_rows
from pipeline.checkpoints.strict_json import parse_json
from pipeline.checkpoints.tokenizer_union import Own, own_tokens
from pipeline.checkpoints.vocabulary import Vocabulary, unite
from pipeline.checkpoints.vocabulary_rows import (
    by_position_only,
    checked_order,
    invalid_ids,
    vocabulary_of,
    vocabulary_tensors,
)
from pipeline.checkpoints.vocabulary_table import BY_POSITION, BY_STRING, Tokens, VocabularyTable
from pipeline.deltas.base_rows import in_posts_order
from pipeline.errors import Mismatch
from pipeline.operations.addends.addend import Addend
from pipeline.operations.fit import Fitted
from pipeline.operations.kernels.rows import RowRule
from pipeline.operations.row_rules import row_rules, whole_in_each


@dataclass(frozen=True)
class Settled:
    """base: the new base, in the result's order of rows. rules: what counts, by rows, in `tensors`.

    own: added tokens of the new base, and of posts but the first, that the result's tokenizer takes in.
    """

    base: Checkpoint
    table: VocabularyTable | None = None
    tensors: frozenset[str] = frozenset()
    rules: tuple[RowRule, ...] = ()
    own: tuple[Own, ...] = ()

    def fitted(self, tensors: Sequence[Fitted]) -> list[Fitted]:
        """`tensors` with the rules for those that have them."""
        return [
            replace(each, rules=self.rules) if each.result.name in self.tensors else each
            for each in tensors
        ]


def settle_own(base: Checkpoint, addends: Sequence[Addend]) -> Settled:
    """`base` in the order that the first addend's own base has, if it is that: then post comes back."""
    rows = addends[0].base_rows
    view = in_posts_order(base, rows)
    size = view.vocab_size
    if rows is None or size is None or view is base:
        return Settled(base)
    dropped = rows.order.rows - sum(count for first, count in rows.order.runs if first != ABSENT)
    added = sum(stop - start for start, stop in rows.order.absent)
    return Settled(
        view,
        VocabularyTable(BY_STRING, size, added=Tokens(added), dropped=Tokens(dropped)),
    )


def settle(
    base: Checkpoint, addends: Sequence[Addend], scales: Sequence[float], *, reads: bool
) -> Settled:
    """Align the new base's vocabulary with that of the addends, which must agree among themselves.

    reads: whether weights may be read, a few rows. Raises Mismatch if tokens have no row, or other
    tokens the same.
    """
    where = f"{base.location} and {', '.join(addend.location for addend in addends)}"
    ours, theirs = vocabulary_of(base), [addend.read_vocabulary() for addend in addends]
    names = _names(base, addends)
    known = [each for each in theirs if each is not None]
    union = unite(known, where=where)
    if ours is None or len(known) < len(theirs) or not names or base.vocab_size is None:
        return _settle_by_position(base, addends, scales, names, [ours, *theirs], where)
    wholes = whole_in_each(addends, names)
    whole = np.logical_or.reduce(wholes)
    post = Side(union, len(whole))
    new = Side(ours, base.vocab_size)
    plan = plan_result(new, post, lambda row: bool(whole[row]))
    _check_lacking(plan, post, where)
    moves = _moves(plan, new.rows, whole) or any(addend.base_rows for addend in addends)
    view = base
    if moves:
        order = checked_order(plan.sources, new.rows, names, where, base)
        view = reorder(base, order, names)
    own, unreachable = _take_in(plan, post, known[0], base, addends)
    table = VocabularyTable(
        BY_STRING if moves else BY_POSITION,
        len(plan.sources),
        moved=plan.moved,
        added=Tokens.of(
            token for row in np.flatnonzero(whole).tolist() if (token := post.token(row)) is not None
        ),
        renamed=Tokens.of(plan.renamed),
        kept=Tokens.of(token for token, _ in plan.own),
        unreachable=Tokens.of(unreachable),
        dropped=Tokens.of(plan.dropped),
        padding=len(plan.sources)
        - sum(row < post.rows for row in post.vocabulary.tokens)
        - len(plan.own),
        displaced=plan.displaced,
        untrained=untrained_rows(base, names, added_rows(plan, post)) if reads else (),
        invalid=_invalid(addends[0], len(plan.sources)),
    )
    rules = row_rules(frozenset(plan.kept), wholes, scales, theirs)
    return Settled(view, table, frozenset(names), rules, own)


def _take_in(
    plan: RowPlan, post: Side, first: Vocabulary, base: Checkpoint, addends: Sequence[Addend]
) -> tuple[tuple[Own, ...], list[str]]:
    """What the first addend's tokenizer takes in of tokens that it lacks and that have a row.

    Returns, too, those that it cannot take in.
    """
    tokens = post.vocabulary.tokens.items()
    others = [(token, row) for row, token in tokens if row < post.rows and token not in first.ids]
    if not others and not plan.own:
        return (), []
    sources = [base.read_tokenizer(), *(addend.read_tokenizer() for addend in addends[1:])]
    return own_tokens([*others, *plan.own], sources, addends[0].read_tokenizer())


def _settle_by_position(
    base: Checkpoint,
    addends: Sequence[Addend],
    scales: Sequence[float],
    names: Sequence[str],
    known: Sequence[Vocabulary | None],
    where: str,
) -> Settled:
    """What is left where tokens are not known on every side: each row is the one of its number.

    Rows that an addend has whole are so here, too. Raises Mismatch for ids that are known to differ.
    """
    tokenizer = base.read_tokenizer()
    for addend in addends:
        check_vocabulary(tokenizer, addend.read_tokenizer(), where=where)
    _check_without_tokenizer(addends, where)
    if not names:
        return Settled(base)
    wholes = whole_in_each(addends, names)
    whole = np.logical_or.reduce(wholes)
    rows = max(base.vocab_size or 0, len(whole))
    table = by_position_only(rows, int(whole.sum()), *known)
    return Settled(base, table, frozenset(names), row_rules(frozenset(), wholes, scales, known[1:]))


def _names(base: Checkpoint, addends: Sequence[Addend]) -> list[str]:
    """The tensors with a row for each token, in the new base and in every addend.

    An addend without a config has as many tokens as the new base.
    """
    sizes = [base.vocab_size if a.vocab_size is None else a.vocab_size for a in addends]
    return [
        name
        for name in vocabulary_tensors(base)
        if all(
            name in addend.tensors
            and addend.tensors[name].record.shape[:1] == (size,)
            and not addend.tensors[name].record.carried
            for addend, size in zip(addends, sizes, strict=True)
        )
    ]


def _check_without_tokenizer(addends: Sequence[Addend], where: str) -> None:
    """Rows that were put into order by tokens go nowhere without them. Raises Mismatch."""
    lost = [addend.location for addend in addends if addend.base_rows is not None]
    if lost:
        raise Mismatch(
            [f"{location} was made by token string" for location in lost],
            where=where,
            hint="the new base's tokenizer is missing, or of no known form: add its tokenizer.json",
            noun="delta",
        )


def _check_lacking(plan: RowPlan, post: Side, where: str) -> None:
    if plan.lacking:
        raise Mismatch(
            [f"{post.token(row)!r} (id {row}) is no token of the new base" for row in plan.lacking],
            where=where,
            hint="the delta changes their rows, and a change to nothing means nothing: use a base that "
            "has these tokens",
            noun="token",
        )


def _invalid(post: Addend, rows: int) -> tuple[str, ...]:
    """Token ids of post's configs that the result has no row for."""
    try:
        generation = parse_json(post.read_companions().get(GENERATION, b"{}"), nonfinite=True)
    except ValueError:
        generation = None
    fields = generation if isinstance(generation, dict) else None
    return tuple(invalid_ids({"config": post.config, GENERATION: fields}, rows))


def _moves(plan: RowPlan, rows: int, whole: NDArray[np.bool_]) -> bool:
    """Whether any row must stand in another place than in the new base, whole ones apart."""
    if len(plan.sources) != max(len(whole), rows) or plan.kept:
        return True
    return any(
        source != row and not (row < len(whole) and whole[row])
        for row, source in enumerate(plan.sources)
    )
