"""The language of gates: what must hold of a model's figures, read from text by a grammar.

    task:ifeval >= base - 2se
    every task >= base - 2se
    bits_per_byte <= 1.02 * base and finite == 1
    kl:prose.p99 < 0.5

Nothing is ever run: text becomes `pipeline.quality.terms`, or an error that says where it makes no
sense. docs/gates.md explains the language; imported only where a condition is read, for it imports lark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken, v_args

from pipeline.errors import UsageError
from pipeline.quality.report import ROLES
from pipeline.quality.terms import (
    METRICS,
    STAR,
    Chain,
    Comparison,
    Condition,
    Figure,
    Negative,
    Number,
    StandardError,
    Term,
    position,
    terms_in,
    with_caret,
)

MAX_CHARACTERS = 500
MAX_DEPTH = 20  # of brackets in brackets

# A name may hold what datasets are called; quotes are for those with other characters in them.
_GRAMMAR = r"""
start: comparison ("and" comparison)*
comparison: sum OPERATOR sum
sum: product ((PLUS | MINUS) product)*
product: factor ((TIMES | OVER) factor)*
?factor: atom | MINUS atom -> negative
?atom: NUMBER -> number
    | NUMBER SE -> errors
    | SE -> error
    | NAME -> figure
    | EVERY NAME -> every
    | OPEN sum CLOSE -> bracket

OPERATOR: ">=" | "<=" | "==" | ">" | "<"
PLUS: "+"
MINUS: "-"
OPEN: "("
CLOSE: ")"
TIMES: "*"
OVER: "/"
SE: "se"
EVERY: "every"
NUMBER: /(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?/
NAME: /[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*/ SET?
SET: /:(?:\*|"[^"\n]+")(?:\.[A-Za-z0-9_]+)?/ | /:[A-Za-z0-9_]+(?:[.,-][A-Za-z0-9_]+)*/
%ignore /[ \t\r\n]+/
"""
_STARTS = {"NAME", "NUMBER"}  # of a term
_WORDS = {"OPERATOR": "a comparison, as >=", "CLOSE": "a closing bracket", "NAME": "a figure's name"}


def parse_condition(text: str) -> Condition:
    """The condition that `text` is.

    Raises UsageError, with the line, the column and the text around a caret, if it is none, compares no
    figure of the model, or is longer than 500 characters or deeper than 20 brackets.
    """
    if len(text) > MAX_CHARACTERS:
        raise UsageError(f"a condition of {len(text):,} characters: the most is {MAX_CHARACTERS}")
    _check_depth(text)
    try:
        comparisons: Sequence[Comparison] = _PARSER.parse(text)  # type: ignore[assignment]
    except UnexpectedInput as error:
        raise _misread(text, error) from None
    for comparison in comparisons:
        for what, at in _problems(text, comparison):
            raise _wrong(what, text, at)
    return Condition(text, comparisons)


def _check_depth(text: str) -> None:
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth > MAX_DEPTH:
            raise _wrong(f"more than {MAX_DEPTH} brackets in each other", text, at)


@v_args(inline=True)
class _Reading(Transformer[Token, Sequence[Comparison]]):
    """What the parser makes of each rule, as it goes: no tree is built, and no function is looked up."""

    def start(self, *comparisons: Comparison) -> Sequence[Comparison]:
        return comparisons

    def comparison(
        self, left: tuple[Term, int, int], operator: Token, right: tuple[Term, int, int]
    ) -> Comparison:
        return Comparison(left[0], str(operator), right[0], left[1], right[2])

    def sum(self, first: _Placed, *rest: Token | _Placed) -> _Placed:
        return _chain(first, rest)

    def product(self, first: _Placed, *rest: Token | _Placed) -> _Placed:
        return _chain(first, rest)

    def negative(self, sign: Token, inner: _Placed) -> _Placed:
        return Negative(inner[0]), _start(sign), inner[2]

    def bracket(self, opening: Token, inner: _Placed, closing: Token) -> _Placed:
        return inner[0], _start(opening), _span(closing)[1]

    def number(self, token: Token) -> _Placed:
        return Number(float(token)), *_span(token)

    def errors(self, count: Token, token: Token) -> _Placed:
        product = Chain(Number(float(count)), (("*", StandardError()),))
        return product, _start(count), _span(token)[1]

    def error(self, token: Token) -> _Placed:
        return StandardError(), *_span(token)

    def figure(self, token: Token) -> _Placed:
        start, end = _span(token)
        return _figure(str(token), start, end), start, end

    def every(self, word: Token, token: Token) -> _Placed:
        start, end = _start(word), _span(token)[1]
        metric, dot, statistic = str(token).partition(".")
        return Figure("model", f"{metric}:{STAR}{dot}{statistic}", start, end), start, end


_Placed = tuple[Term, int, int]  # a term, and where it starts and ends in the text


def _start(token: Token) -> int:
    return token.start_pos or 0


def _span(token: Token) -> tuple[int, int]:
    return _start(token), _start(token) + len(token)


def _chain(first: _Placed, rest: Sequence[Token | _Placed]) -> _Placed:
    if not rest:
        return first
    pairs = []
    end = first[2]
    for sign, placed in zip(rest[::2], rest[1::2], strict=True):
        assert not isinstance(placed, Token), "signs and terms come in turn"
        pairs.append((str(sign), placed[0]))
        end = placed[2]
    return Chain(first[0], tuple(pairs)), first[1], end


def _figure(text: str, start: int, end: int) -> Figure:
    """What a name means: base, base.task:x, task:x or task:"x y"."""
    for role in ROLES:
        if text == role:
            return Figure(role, None, start, end)
        if text.startswith(f"{role}."):
            return Figure(role, text.removeprefix(f"{role}.").replace('"', ""), start, end)
    return Figure("model", text.replace('"', ""), start, end)


_PARSER = Lark(_GRAMMAR, parser="lalr", transformer=_Reading())


def _problems(text: str, comparison: Comparison) -> Iterator[tuple[str, int]]:
    """What makes no sense in a comparison, whatever the report says, and where."""
    for each in comparison.figures:
        if each.name is not None and each.metric not in METRICS:
            close = get_close_matches(each.metric, [*METRICS, *ROLES], 1)
            meant = f": did you mean {close[0]}?" if close else f": it is one of {', '.join(METRICS)}"
            yield f"{each.metric!r} is nothing that is measured{meant}", each.start
        if (each.name or "").count(":") > 1 and text.startswith("every", each.start):
            yield "every is followed by a metric alone, as in every task", each.start
        if each.name is None and each.role == "model":
            yield "the model is what is judged: name a figure of it, as task:x", each.start
    if not comparison.names:
        yield "it compares no figure of the model", comparison.start
    for each in comparison.figures:
        if each.name is None and len(comparison.names) > 1:
            figure = f"{each.role}.{comparison.names[0]}"
            yield f"it is not clear which figure of {each.role} is meant: write {figure}", each.start
    starred = [each for each in comparison.figures if each.is_starred]
    for each in starred[1:]:
        if each.name != starred[0].name:
            yield "a comparison goes through the sets of one figure only", each.start
    terms = [*terms_in(comparison.left), *terms_in(comparison.right)]
    if any(isinstance(each, Number) and not math.isfinite(each.value) for each in terms):
        yield "it has a number that is too large", comparison.start


def _misread(text: str, error: UnexpectedInput) -> UsageError:
    """The error of a text that the grammar does not have."""
    at = error.pos_in_stream or 0
    if isinstance(error, UnexpectedCharacters):
        return _wrong(f"{text[at]!r} means nothing here", text, at)
    ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    wanted = error.accepts or error.expected if isinstance(error, UnexpectedToken) else set()
    if wanted >= _STARTS:
        expected = "a figure, a number or a bracket"
    else:
        words = [word for name, word in _WORDS.items() if name in wanted]
        expected = " or ".join(words) or '"and", or the end'
    if ended:
        return _wrong(f"it ends where there should be {expected}", text, len(text))
    return _wrong(f"there should be {expected}", text, at)


def _wrong(what: str, text: str, at: int) -> UsageError:
    return UsageError(f"{position(text, at)}: {what}", hint=with_caret(text, at))
