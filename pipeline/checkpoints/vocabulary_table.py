"""What became of a vocabulary: the table that reports show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BY_POSITION, BY_STRING = "by position", "by string"
SHOWN = 10  # names that are shown


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many tokens, and the first of them by name."""

    count: int = 0
    first: Sequence[str] = ()

    @classmethod
    def of(cls, names: Iterable[str]) -> Tokens:
        """Those of `names`."""
        listed = list(names)
        return cls(len(listed), tuple(listed[:SHOWN]))

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.first) else ""
        return f"{self.count:,}" + (f" ({', '.join(map(repr, self.first))}{more})" if self.first else "")


@dataclass(frozen=True, slots=True)
class VocabularyTable:
    """How the rows of embedding and head were brought together.

    aligned: `BY_POSITION` or `BY_STRING`. why: if tokenizers could not be compared, the reason. rows: of
    the result. moved: rows that stand elsewhere than in the base. added: tokens whose rows are post's,
    whole. renamed: added tokens that took the place of others. kept: tokens that only the base has, in
    the result's tokenizer, too, if apply made it. unreachable: tokens with a row that it cannot make.
    dropped: the base's tokens whose rows were not used. padding: rows without a token. displaced:
    padding of the base that gave way to tokens. untrained: special tokens whose rows in the base look
    untrained, see `special_rows`. invalid: token ids of post's configs that have no row.
    """

    aligned: str
    rows: int
    why: str | None = None
    moved: int = 0
    added: Tokens = Tokens()
    renamed: Tokens = Tokens()
    kept: Tokens = Tokens()
    unreachable: Tokens = Tokens()
    dropped: Tokens = Tokens()
    padding: int = 0
    displaced: int = 0
    untrained: Sequence[str] = ()
    invalid: Sequence[str] = ()

    def lines(self) -> Iterator[str]:
        """As people read it: one line for each thing that there is."""
        yield f"{self.rows:,} rows, aligned {self.aligned}" + (f" ({self.why})" if self.why else "")
        for name in (
            "moved",
            "added",
            "renamed",
            "kept",
            "unreachable",
            "dropped",
            "padding",
            "displaced",
        ):
            value = getattr(self, name)
            if value.count if isinstance(value, Tokens) else value:
                yield f"{name} {value if isinstance(value, Tokens) else format(value, ',')}"
        if self.untrained:
            yield f"untrained in the base: {', '.join(self.untrained)}"
        if self.invalid:
            yield f"ids that no row has: {', '.join(self.invalid)}"
