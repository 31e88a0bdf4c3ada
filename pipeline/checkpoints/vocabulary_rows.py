"""Base and post brought to one order of vocabulary rows, by token string where ids differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints.alignment import check_vocabulary
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.files import read_all
from pipeline.checkpoints.policy import is_token_id
from pipeline.checkpoints.reordered import reorder
from pipeline.checkpoints.row_order import ABSENT, MAX_RUNS, RowOrder
from pipeline.checkpoints.row_plan import RowPlan, Side, added_rows, plan_base
from pipeline.checkpoints.special_rows import untrained_rows
from pipeline.checkpoints.vocabulary import Vocabulary, read_vocabulary, vocabulary_files
from pipeline.checkpoints.vocabulary_table import BY_POSITION, BY_STRING, Tokens, VocabularyTable
from pipeline.errors import Mismatch

# Sizes of a config that tensors may have in their first dimension, and that might be the vocabulary's.
_OTHER_SIZES = ("hidden_size", "intermediate_size", "moe_intermediate_size", "n_embd", "d_model")
_VOCABULARY_NAMES = ("embed", "wte", "head", "shared", "output")
_IN_LAYER = re.compile(r"\.\d+\.")
_ALWAYS = ("lm_head", "embed_tokens", "wte")  # in the names of tensors that nothing else is called like


@dataclass(frozen=True)
class AlignedBase:
    """base: in post's order of rows. order: None where that is its own. tensors: that it holds for."""

    base: Checkpoint
    order: RowOrder | None
    tensors: Sequence[str]
    table: VocabularyTable | None


def vocabulary_of(model: Checkpoint) -> Vocabulary | None:
    """The vocabulary that a model's tokenizer has, if its form is known."""
    names = vocabulary_files(model.companions)
    return read_vocabulary({name: read_all(model.companions[name]) for name in names})


def vocabulary_tensors(model: Checkpoint) -> list[str]:
    """The tensors with a row for each token: their first dimension is the config's vocab_size."""
    size = model.vocab_size
    return [name for name, source in model.tensors.items() if source.entry.shape[:1] == (size,)]


def check_vocabulary_tensors(names: Sequence[str], *models: Checkpoint) -> list[str]:
    """Why rows of `names` must not be re-ordered, a line for each reason; none if they may be.

    The sizes tell which tensors have a row for each token, unless another size is the same, or a layer
    has the tensor; then names are asked, but only to refuse.
    """
    problems = []
    for model in models:
        size, config = model.vocab_size, model.config or {}
        text = config.get("text_config")
        sizes = {**config, **(text if isinstance(text, dict) else {})}
        is_doubtful = any(sizes.get(key) in (size, (size or 0) // 2) for key in _OTHER_SIZES)
        problems += [
            f"{name} in {model.location} has {size} rows, as the vocabulary and another size have"
            for name in names
            if (is_doubtful or _IN_LAYER.search(name))
            and not any(part in name for part in _VOCABULARY_NAMES)
        ]
        problems += [
            f"{name} in {model.location} may have a row for each token, but its size is not that"
            for name, source in model.tensors.items()
            if name not in names
            and len(source.entry.shape) > 1
            and (source.entry.shape[0] == size or any(part in name for part in _ALWAYS))
        ]
        problems += [
            f"{name} in {model.location} is not float: its rows cannot be put into another order"
            for name in names
            if not model.tensors[name].entry.dtype.is_float
        ]
    return problems


def align_base(base: Checkpoint, post: Checkpoint, *, reads: bool) -> AlignedBase:
    """`base` with its vocabulary in post's order of rows, the rows that it lacks being zeros.

    Nothing is made where the order is the same. reads: whether weights may be read, a few rows, for
    what the table says of untrained tokens. Raises Mismatch if the tokenizers have little in common.
    """
    candidates = vocabulary_tensors(base)
    names = [name for name in vocabulary_tensors(post) if name in candidates]
    where = f"{base.location} and {post.location}"
    if not names or base.vocab_size is None or post.vocab_size is None:
        check_vocabulary(base.read_tokenizer(), post.read_tokenizer(), where=where)
        return AlignedBase(base, None, (), None)
    ours, theirs = vocabulary_of(base), vocabulary_of(post)
    if ours is None or theirs is None:
        check_vocabulary(base.read_tokenizer(), post.read_tokenizer(), where=where)
        grown = max(post.vocab_size - base.vocab_size, 0)
        return AlignedBase(base, None, names, by_position_only(post.vocab_size, grown, ours, theirs))
    left, right = Side(ours, base.vocab_size), Side(theirs, post.vocab_size)
    plan = plan_base(left, right)
    _check_common(plan, left, right, where)
    found = untrained_rows(base, names, added_rows(plan, right)) if reads else ()
    table = _table(plan, left, right, found)
    if _is_same(plan.sources, left.rows):
        return AlignedBase(base, None, names, table)
    order = checked_order(plan.sources, left.rows, names, where, base, post)
    return AlignedBase(reorder(base, order, names), order, names, table)


def checked_order(
    sources: Sequence[int], rows: int, names: Sequence[str], where: str, *models: Checkpoint
) -> RowOrder:
    """The order that `sources` say, if the rows of `names` may be re-ordered. Raises Mismatch."""
    order = RowOrder.of(sources, rows)
    problems = check_vocabulary_tensors(names, *models)
    if len(order.runs) > MAX_RUNS:
        problems.append(f"the rows stand in {len(order.runs)} runs, at most {MAX_RUNS} are possible")
    if problems:
        raise Mismatch(
            problems,
            where=where,
            hint="the tokenizers have other ids, and these rows cannot be put into order: use a base "
            "with post's tokenizer",
        )
    return order


def by_position_only(rows: int, whole: int, *sides: Vocabulary | None) -> VocabularyTable:
    """The table where there is nothing to compare. whole: how many of the rows are post's own."""
    missing = sum(side is None for side in sides)
    why = f"{missing} of {len(sides)} tokenizers not known"
    return VocabularyTable(BY_POSITION, rows, why, added=Tokens(whole))


def _is_same(sources: Sequence[int], rows: int) -> bool:
    """Whether each row is its own, and only rows behind the source's end are absent."""
    if len(sources) < rows:
        return False
    return all(s == row if row < rows else s == ABSENT for row, s in enumerate(sources))


def _check_common(plan: RowPlan, base: Side, post: Side, where: str) -> None:
    """Half of post's ordinary tokens must be base's; added ones may be new. Raises Mismatch."""
    ordinary = post.vocabulary.ordinary
    count = sum(ordinary(row) for row in range(post.rows))
    lacking = [row for row in plan.lacking if ordinary(row)]
    if not lacking or 2 * len(lacking) < count:
        return
    raise Mismatch(
        [
            f"{post.token(row)!r} (id {row}) is no token of the base"
            + (f", which has {token!r} there" if (token := base.token(row)) is not None else "")
            for row in lacking
        ],
        where=where,
        hint="these are tokenizers of unrelated models: check that both are the right ones",
        noun="token",
    )


def _table(plan: RowPlan, base: Side, post: Side, untrained: Sequence[str]) -> VocabularyTable:
    tokens = post.vocabulary.tokens
    return VocabularyTable(
        BY_POSITION if _is_same(plan.sources, base.rows) else BY_STRING,
        post.rows,
        moved=plan.moved,
        added=Tokens.of(tokens[row] for row in plan.lacking),
        renamed=Tokens.of(plan.renamed),
        dropped=Tokens.of(plan.dropped),
        padding=sum(row not in tokens for row in range(post.rows)),
        untrained=untrained,
    )


def invalid_ids(configs: Mapping[str, Mapping[str, Any] | None], rows: int) -> list[str]:
    """A line for each token id of `configs`, by their names, that has no row among `rows`."""
    found = []
    for name, config in configs.items():
        text = (config or {}).get("text_config")
        for fields in (config or {}, text if isinstance(text, dict) else {}):
            for key, value in fields.items():
                ids = value if isinstance(value, list) else [value]
                if is_token_id(key) and any(type(n) is int and n >= rows for n in ids):
                    found.append(f"{name} {key} {value}")
    return found
