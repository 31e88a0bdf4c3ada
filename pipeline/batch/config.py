"""The batch config: a JSON file that says what must exist, as steps that refer to each other.

    {
      "defaults": {"store": "./store", "overwrite": true},
      "steps": [
        {"id": "delta-v1", "run": "compute", "base": "org/base-v1", "post": "org/post-v1",
         "output": "deltas/v1.safetensors"},
        {"id": "post-v2", "run": "apply", "base": "org/base-v2", "deltas": ["@delta-v1=0.8"],
         "output": "./post-v2"}
      ]
    }

"@ID" stands for the output of the step with that id, wherever a location is read. Local locations, the
store's and the report's among them, are relative to the current directory, not to the config. The older
form `{"model_pairs": [{"base": …, "post": …, "output": …}]}` is read as compute steps.

Importing this module and reading a config imports neither torch, numpy, transformers nor azure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from pipeline.batch.fields import (
    CodecName,
    DeltaIn,
    DeltaOut,
    DeviceName,
    DTypeName,
    Id,
    ModelIn,
    ModelOut,
    NotEmpty,
    ReportPlace,
    Scale,
    Size,
    StorePlace,
)
from pipeline.batch.graph import Graph
from pipeline.batch.problems import Problem, field_problems, in_order, load_json
from pipeline.batch.references import MAKES, Kind, needs_of, reference_problems
from pipeline.errors import ConfigError, UsageError
from pipeline.storage.locations import parse_delta, split_scale


class _Model(BaseModel):
    """No unknown keys, no silent conversions, no changes afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class Term(_Model):
    """One delta of an apply step; without a scale of its own it takes the step's."""

    delta: DeltaIn
    scale: Scale | None = None


def _as_term(value: object) -> object:
    """A term written as "DELTA" or "DELTA=SCALE" in its object form."""
    if isinstance(value, Term | dict):
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


AnyTerm = Annotated[Term, BeforeValidator(_as_term, json_schema_input_type=str | Term)]


class Pair(_Model):
    """A base model and its post-trained version, and where their difference goes."""

    base: ModelIn
    post: ModelIn
    output: DeltaOut
    dtype: DTypeName | None = None
    codec: CodecName = "rans"


class Compute(Pair):
    """A step that writes the delta post - base."""

    id: Id
    run: Literal["compute"] = "compute"
    makes: ClassVar[Kind] = MAKES["compute"]


class Apply(_Model):
    """A step that writes the model base + the sum of scale * delta."""

    id: Id
    run: Literal["apply"] = "apply"
    base: ModelIn
    deltas: Annotated[tuple[AnyTerm, ...], Field(strict=False), NotEmpty]
    output: ModelOut
    scale: Scale = 1.0
    dtype: DTypeName | None = None
    shard_size: Size | None = None
    makes: ClassVar[Kind] = MAKES["apply"]


Step = Annotated[Compute | Apply, Field(discriminator="run")]


class Defaults(_Model):
    """Options of all steps; one that is not given is the operation's own default."""

    store: StorePlace | None = None
    dtype: DTypeName | None = None
    device: DeviceName | None = None
    memory: Size | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    overwrite: bool = False

    def override(self, **given: Any) -> Defaults:
        """These options, with each of `given` that is not None in its place. Raises UsageError."""
        changed = {name: value for name, value in given.items() if value is not None}
        try:
            return Defaults(**{**self.model_dump(), **changed})
        except ValidationError as error:
            raise UsageError("; ".join(in_order(field_problems(error)))) from error


class Config(_Model):
    """A batch config whose references make sense: steps, their defaults, and where the report goes.

    report: a location; None is `./reports/NAME.json`, after the config's file.
    """

    schema_url: str | None = Field(default=None, alias="$schema")
    steps: Annotated[tuple[Step, ...], Field(strict=False), NotEmpty]
    defaults: Defaults = Defaults()
    report: ReportPlace | None = None

    @model_validator(mode="after")
    def _check_references(self) -> Config:
        problems = reference_problems(self.model_dump()["steps"], "steps")
        if problems:
            raise ValueError("; ".join(in_order(problems)))
        return self

    @property
    def by_id(self) -> Mapping[str, Compute | Apply]:
        """The steps by id, in the order of the config."""
        return {step.id: step for step in self.steps}

    @property
    def graph(self) -> Graph:
        """Which step needs which."""
        return Graph({step.id: needs_of(step.model_dump()) for step in self.steps})


class _FlatConfig(Defaults):
    """The older form: pairs to compute, their options beside them or under "defaults"."""

    schema_url: str | None = Field(default=None, alias="$schema")
    model_pairs: Annotated[tuple[Pair, ...], Field(strict=False), NotEmpty]
    defaults: Defaults = Defaults()
    report: ReportPlace | None = None

    def expand(self) -> Config:
        """The same as steps, with ids after the outputs' names."""
        steps: dict[str, Compute] = {}
        for pair in self.model_pairs:
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(parse_delta(pair.output).path).stem)
            name = first = stem.lstrip("._-")[:90] or "delta"
            number = 1
            while name in steps:
                number += 1
                name = f"{first}-{number}"
            steps[name] = Compute(id=name, **pair.model_dump())
        beside = self.model_dump(include=set(Defaults.model_fields), exclude_unset=True)
        return Config(
            steps=tuple(steps.values()), defaults=self.defaults.override(**beside), report=self.report
        )


def read_config(path: str | Path) -> Config:
    """The config in the file `path`. Raises ConfigError with all its problems, or if there is none."""
    return parse_config(read_file(path), where=str(path))


def read_file(path: str | Path) -> bytes:
    """The bytes of a config file. Raises ConfigError if it can't be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError([f"can't be read: {error.strerror or error}"], where=str(path)) from error


def parse_config(data: bytes, *, where: str) -> Config:
    """The config that `data`, the content of the file `where`, is.

    Raises ConfigError with every problem: those of single fields and those between steps, each with
    its JSON path.
    """
    content, problems = load_json(data, where=where)
    is_flat = isinstance(content, dict) and "model_pairs" in content
    config: Config | _FlatConfig | None = None
    fields: list[Problem] = []
    try:
        config = (_FlatConfig if is_flat else Config).model_validate(content)
    except ValidationError as error:
        fields = field_problems(error)
    if isinstance(content, dict):
        root = "model_pairs" if is_flat else "steps"
        between = reference_problems(content.get(root), root)
        # A place where something is wrong between steps often makes no sense alone either: said once.
        said = {problem.path for problem in between}
        fields = [problem for problem in fields if problem.path not in said] + between
    problems += fields
    if problems or config is None:
        raise ConfigError(in_order(problems), where=where)
    return config.expand() if isinstance(config, _FlatConfig) else config
