"""What steps are made of: the class of all parts of a config, and the terms of sums."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from pipeline.batch.fields import DeltaIn, ModelIn, NotEmpty, Scale
from pipeline.batch.problems import field_problems
from pipeline.storage.locations import split_scale

DELTA, DIFFERENCE = "<delta>", "<difference>"  # kinds of terms; no keys, and so not shown in paths


class Model(BaseModel):
    """No unknown keys, no silent conversions, no changes afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class Term(Model):
    """One delta of a sum.

    delta: a location, "@NAME" or "@STEP". scale: what it is multiplied by; without it, the step's.
    """

    delta: DeltaIn
    scale: Scale | None = None


class Difference(Model):
    """A difference of two models, taken on the way into a sum: no delta is written.

    base: the model that was post-trained. post: what came of it. scale: what the difference is
    multiplied by; without it, the step's.
    """

    base: ModelIn
    post: ModelIn
    scale: Scale | None = None


def _as_term(value: object) -> object:
    """A term written as "DELTA" or "DELTA=SCALE" in its object form."""
    if isinstance(value, Term | Difference | dict):
        return value
    if not isinstance(value, str):
        raise ValueError('should be "DELTA", "DELTA=SCALE" or an object with delta and scale')
    delta, scale = split_scale(value)
    try:
        return Term(delta=delta, scale=None if scale is None else float(scale))
    except ValidationError as error:
        raise ValueError(", ".join(problem.text for problem in field_problems(error))) from error
    except ValueError as error:
        raise ValueError(f"{scale!r} is not a scale: write DELTA=0.5") from error


def _kind_of_term(value: object) -> str:
    """Which of the two a term is, as its keys say."""
    keys = value.keys() if isinstance(value, dict) else ()
    return DIFFERENCE if isinstance(value, Difference) or {"base", "post"} & set(keys) else DELTA


StoredTerm = Annotated[Term, BeforeValidator(_as_term, json_schema_input_type=str | Term)]
AnyTerm = Annotated[
    Annotated[Term, Tag(DELTA)] | Annotated[Difference, Tag(DIFFERENCE)],
    Discriminator(_kind_of_term),
    BeforeValidator(_as_term, json_schema_input_type=str | Term | Difference),
]
Terms = Annotated[tuple[AnyTerm, ...], Field(strict=False), NotEmpty]
