"""The fields of a step that say how deltas are put together, and what a new base must be for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.batch.terms import Model
from pipeline.operations.fusion.choice import Fusion
from pipeline.operations.fusion.methods import MethodName

Patterns = Annotated[tuple[str, ...], Field(strict=False)]


class Fuses(Model):
    """What steps have in common that add deltas to a base; docs/fusion.md says what each method does.

    method: how deltas are put together; None is their sum. density: the part of each delta's elements
    that is kept. lambda_: what the sum is multiplied by. seed: of a random choice of elements. epsilon:
    of della, how far chances are from density. gamma: of breadcrumbs, the part of the largest that is
    left out. scale_for: what tensors get is multiplied by, each "REGEX=0.5" or "layers:0-7=0.5"; the
    last that matches counts. only: patterns of the tensors that alone are added to. skip: patterns of
    those that keep the base's values. take_config: base or post by key of config.json, whose value
    counts whatever the policy. allow_unrelated: whether to add even to a base that seems unrelated.
    """

    method: MethodName | None = None
    density: float | None = None
    lambda_: float | None = Field(default=None, alias="lambda")
    seed: Annotated[int, Field(ge=0)] | None = None
    epsilon: float | None = None
    gamma: float | None = None
    scale_for: Patterns = ()
    only: Patterns = ()
    skip: Patterns = ()
    take_config: Mapping[str, Literal["base", "post"]] = {}
    allow_unrelated: bool = False

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        problems: list[str] = []
        Fusion.parse(fusing(self), problems, self._scales())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _scales(self) -> Sequence[float] | None:
        """Those of the deltas, if they are known here."""
        return None


def fusing(step: Fuses) -> dict[str, Any]:
    """Those of the fields that say anything, as options of apply, in JSON's values."""
    found = {name: getattr(step, name) for name in Fuses.model_fields}
    told = {name: value for name, value in found.items() if value not in (None, (), {})}
    if not step.allow_unrelated:
        del told["allow_unrelated"]
    return {name: list(value) if type(value) is tuple else value for name, value in told.items()}
