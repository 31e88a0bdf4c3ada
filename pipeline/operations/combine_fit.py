"""Whether deltas can be combined: the same tensors, the same tokens, the same rows without a base."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.checkpoints.alignment import check_vocabulary, is_absent, name_problems, show
from pipeline.checkpoints.vocabulary import Vocabulary, unite
from pipeline.deltas.base_rows import whole_rows
from pipeline.deltas.delta import Delta
from pipeline.deltas.manifest import TensorRecord
from pipeline.errors import Mismatch
from pipeline.tensors.dtypes import DType


def check_fit(deltas: Sequence[Delta]) -> None:
    """All must have the same tensors, tokens and whole rows. Raises Mismatch with whatever differs."""
    first = deltas[0]
    problems: list[str] = []
    for other in deltas[1:]:
        problems += name_problems(first.tensors, other.tensors, first.location, other.location)
        for name in first.tensors.keys() & other.tensors.keys():
            ours, theirs = first.tensors[name].record, other.tensors[name].record
            if ours.shape != theirs.shape or _kind(ours) != _kind(theirs):
                problems.append(
                    f"{name} is {_describe(ours)} in {first.location}, "
                    f"{_describe(theirs)} in {other.location}"
                )
            elif _is_whole(ours) != _is_whole(theirs) or (
                _is_whole(ours) and ours.stored_digest != theirs.stored_digest
            ):
                problems.append(f"{name} is carried whole, and not the same in {other.location}")
    if problems:
        raise Mismatch(
            sorted(problems),
            where=", ".join(delta.location for delta in deltas),
            hint="only deltas of one architecture add up: compare them with `cli.py inspect`",
        )
    _check_tokens(deltas)
    _check_whole_rows(deltas)


def _check_tokens(deltas: Sequence[Delta]) -> None:
    """A row must be the same token's in all, as far as tokens are known. Raises Mismatch."""
    first, *others = deltas
    vocabularies = [delta.read_vocabulary() for delta in deltas]
    known = [each for each in vocabularies if each is not None]
    united = unite(known, where=", ".join(delta.location for delta in deltas))
    if vocabularies[0] is not None:
        _check_first_has_all(first, vocabularies[0], united)
    if len(known) < len(deltas):
        for other in others:
            where = f"{first.location} and {other.location}"
            check_vocabulary(first.read_tokenizer(), other.read_tokenizer(), where=where)


def _check_first_has_all(first: Delta, own: Vocabulary, united: Vocabulary) -> None:
    """The sum has the first delta's tokenizer: it must have all tokens. Raises Mismatch."""
    rows = first.vocab_size or 0
    lacking = sorted(row for row in united.tokens if row < rows and row not in own.tokens)
    if lacking:
        raise Mismatch(
            [f"{united.tokens[row]!r} (id {row}) is no token of {first.location}" for row in lacking],
            where=first.location,
            hint="the sum would have its tokenizer: name a delta first that has all tokens, or give "
            "them to `cli.py apply` together",
            noun="token",
        )


def whole_places(delta: Delta, name: str) -> list[tuple[int, int]]:
    """Which rows of a tensor are post's own in a delta, none where all of it is; see `whole_rows`."""
    record = delta.tensors[name].record
    if _is_whole(record):
        return []
    return whole_rows(name, record.shape, record.base_shape, delta.manifest.base_rows)


def _shown(places: Sequence[tuple[int, int]]) -> str:
    listed = [f"{start} to {stop - 1}" for start, stop in places[:3]]
    return f"rows {', '.join(listed)}{', …' if len(places) > 3 else ''}" if places else "no rows"


def _check_whole_rows(deltas: Sequence[Delta]) -> None:
    """Rows that one delta has whole are so in all. Raises Mismatch.

    Else a row might be whole in one and a difference in another, which no sum of them could say.
    """
    first, *others = deltas
    problems = [
        f"{name}: {_shown(whole_places(first, name))} are whole in {first.location}, "
        f"{_shown(whole_places(other, name))} in {other.location}"
        for other in others
        for name in first.tensors
        if whole_places(first, name) != whole_places(other, name)
    ]
    if problems:
        raise Mismatch(
            problems,
            where=", ".join(delta.location for delta in deltas),
            hint="give them to `cli.py apply` together: there a row may be whole in one and a "
            "difference in another",
        )


def _is_whole(record: TensorRecord) -> bool:
    """Whether no base has anything of it, so that it is a post's own."""
    return is_absent(record.base_shape, record.shape)


def _kind(record: TensorRecord) -> tuple[bool, DType]:
    """What must be the same: the format of the arithmetic, or that of what is carried."""
    return record.carried, record.post if record.carried else record.width


def _describe(record: TensorRecord) -> str:
    text = f"{show(record.shape)} {record.post}"
    return text if record.post == record.base else f"{text} on a base of {record.base}"
