"""What a condition of a gate is once it is read: comparisons of terms, and terms of figures.

Plain data. `pipeline.quality.conditions` reads it from text, `pipeline.quality.gate` judges by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.quality.report import Role

STAR = "*"
# Of the names in the table of `pipeline.quality.report`, what stands before the set and the statistic.
METRICS = (
    "bits_per_byte", "perplexity", "finite", "kl", "same_top", "task", "eos_rate", "flips",
    "gap_recovered", "transfer_slope",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number."""

    value: float


@dataclass(frozen=True, slots=True)
class StandardError:
    """The standard error of the comparison that it stands in."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one of the models.

    name: as the report has it, with a star for a set: every one; None: of the same name as the figure of
    the judged model that stands in the comparison. start, end: where it stands in the text.
    """

    role: Role
    name: str | None
    start: int
    end: int

    @property
    def is_starred(self) -> bool:
        """Whether it stands for a figure of every set."""
        return self.name is not None and f":{STAR}" in self.name

    @property
    def metric(self) -> str:
        """What is measured; empty if it is said elsewhere."""
        return (self.name or "").partition(":")[0].partition(".")[0]


@dataclass(frozen=True, slots=True)
class Negative:
    """A term with its sign changed."""

    inner: Term


@dataclass(frozen=True, slots=True)
class Chain:
    """A sum or a product, from the left: first, then each sign with what it brings."""

    first: Term
    rest: Sequence[tuple[str, Term]]


Term = Number | StandardError | Figure | Negative | Chain


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two terms, and how the left must stand to the right: one of >=, <=, >, < and ==.

    start, end: where it stands in the condition's text.
    """

    left: Term
    operator: str
    right: Term
    start: int
    end: int

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures in it, in the order of the text."""
        return tuple(each for each in self._terms() if isinstance(each, Figure))

    @property
    def has_standard_error(self) -> bool:
        """Whether its standard error stands in it."""
        return any(isinstance(each, StandardError) for each in self._terms())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the judged model's figures in it, each once."""
        named = [each.name for each in self.figures if each.role == "model" and each.name]
        return tuple(dict.fromkeys(named))

    def _terms(self) -> Iterator[Term]:
        for side in (self.left, self.right):
            yield from terms_in(side)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition as it was written, and its comparisons, which must all hold."""

    text: str
    comparisons: Sequence[Comparison]


def terms_in(term: Term) -> Iterator[Term]:
    """A term and all that is in it."""
    yield term
    match term:
        case Negative(inner):
            yield from terms_in(inner)
        case Chain(first, rest):
            yield from terms_in(first)
            for _, each in rest:
                yield from terms_in(each)


def position(text: str, offset: int) -> str:
    """A place in a text as people name it: line and column, both from 1."""
    before = text[:offset]
    return f"line {before.count(chr(10)) + 1}, column {offset - before.rfind(chr(10))}"


def with_caret(text: str, offset: int) -> str:
    """The text with a caret, which conditions never have, before the character at `offset`."""
    return f"at the caret: {text[:offset]}^{text[offset:]}"
