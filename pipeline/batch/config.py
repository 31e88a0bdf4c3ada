"""The batch config: a JSON file that says what must exist, as steps that refer to each other.

    {
      "models": {"v1": "org/base-v1", "v2": "org/base-v2"},
      "defaults": {"store": "./store", "overwrite": true},
      "steps": [
        {"id": "delta-v1", "run": "compute", "base": "@v1", "post": "org/post-v1",
         "output": "deltas/v1.safetensors"},
        {"id": "post-v2", "run": "apply", "base": "@v2", "deltas": ["@delta-v1=0.8"],
         "output": "./post-v2"}
      ]
    }

"@NAME" stands for a named model or delta, or for the output of the step with that id, where a location
is read. Local locations, the store's and the report's among them, are relative to the current
directory, not to the config. `matrix` and `chain` are short for many steps, see
`pipeline.batch.expand`; the older form `{"model_pairs": [{"base": …, "post": …, "output": …}]}` is read
as compute steps.

Importing this module and reading a config imports neither torch, numpy, transformers nor azure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from pipeline.batch.expand import Chain, Matrix, pair_steps
from pipeline.batch.fields import (
    DeltaIn,
    DeviceName,
    DTypeName,
    FilePath,
    HubCacheName,
    Id,
    ModelIn,
    ReportPlace,
    Size,
    StorePlace,
    TierName,
)
from pipeline.batch.graph import Graph
from pipeline.batch.problems import Problem, field_problems, in_order, load_json
from pipeline.batch.raw import name_problems, problems_of_raw
from pipeline.batch.references import (
    EITHER,
    MARK,
    MODELS,
    Kind,
    Placed,
    is_fused,
    needs_of,
    reference_problems,
)
from pipeline.batch.steps import AnyStep, Compute, Pair, Step
from pipeline.batch.terms import Difference, Model, Term
from pipeline.batch.variables import fill_in
from pipeline.errors import ConfigError, UsageError


class BetweenSteps(ValueError):
    """What is wrong between the steps of a config whose fields are all right."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(in_order(self.problems)))


class Defaults(Model):
    """Options of all steps; one that is not given is the operation's own default.

    store: the folder or container where plain delta names lie. dtype: the format of weights and deltas;
    auto is that of the models. device: what does the arithmetic; auto is the processor. memory: bound on
    the buffers of all running steps together, as "2GiB". workers: threads that compute, for all running
    steps together. hub_cache: whether weights from the Hub go through its cache on the disk; auto is
    where there is room. digest_cache: where digests of local weights are kept from run to run: off, on
    or a folder. dequantize: whether 8-bit floats are read as what they mean. tier: the access tier of
    blobs that are written. sign_key: a private key (PEM) that signs every output. overwrite: whether
    outputs that are other than their steps' are replaced.
    """

    store: StorePlace | None = None
    dtype: DTypeName | None = None
    device: DeviceName | None = None
    memory: Size | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    hub_cache: HubCacheName | None = None
    digest_cache: FilePath | None = None
    dequantize: bool | None = None
    tier: TierName | None = None
    sign_key: FilePath | None = None
    overwrite: bool = False

    def override(self, **given: Any) -> Defaults:
        """These options, with each of `given` that is not None in its place. Raises UsageError."""
        changed = {name: value for name, value in given.items() if value is not None}
        try:
            return Defaults(**{**self.model_dump(), **changed})
        except ValidationError as error:
            raise UsageError("; ".join(in_order(field_problems(error)))) from error


class Config(Defaults):
    """A batch config as it is written. Options of steps may stand beside them or under `defaults`.

    schema_url: where the JSON Schema is, for editors. models: names for models. deltas: names for
    deltas. steps: what must exist, in any order. matrix: every delta onto every base. chain: versions of
    a base model. model_pairs: the older form of compute steps. defaults: options of all steps. report: a
    location; None is `./reports/NAME.json`, after the config's file.
    """

    schema_url: str | None = Field(default=None, alias="$schema")
    models: Mapping[Id, ModelIn] = {}
    deltas: Mapping[Id, DeltaIn] = {}
    steps: Annotated[tuple[Step, ...], Field(strict=False)] = ()
    matrix: Annotated[tuple[Matrix, ...], Field(strict=False)] = ()
    chain: Annotated[tuple[Chain, ...], Field(strict=False)] = ()
    model_pairs: Annotated[tuple[Pair, ...], Field(strict=False)] = ()
    defaults: Defaults = Defaults()
    report: ReportPlace | None = None

    @model_validator(mode="after")
    def _check_references(self) -> Config:
        problems = self.problems()
        if problems:
            raise BetweenSteps(problems)
        return self

    @property
    def options(self) -> Defaults:
        """The options of all steps."""
        beside = self.model_dump(include=set(Defaults.model_fields), exclude_unset=True)
        return self.defaults.override(**beside)

    @property
    def names(self) -> Mapping[str, Kind]:
        """What the names of models and deltas stand for."""
        return {**dict.fromkeys(self.models, "model"), **dict.fromkeys(self.deltas, "delta")}

    def written(self) -> Iterator[tuple[Placed, AnyStep]]:
        """All steps, those that short forms stand for among them, and where they come from."""
        for number, step in enumerate(self.steps):
            yield Placed(("steps", number), step.model_dump()), step
        short = [(("matrix", number), matrix.steps()) for number, matrix in enumerate(self.matrix)]
        chains = [(("chain", number), chain.steps()) for number, chain in enumerate(self.chain)]
        for path, steps in (*short, *chains):
            for each, places in steps:
                yield Placed(path, each.model_dump(), places), each
        for number, pair in enumerate(pair_steps(self.model_pairs)):
            yield Placed(("model_pairs", number), pair.model_dump()), pair

    def problems(self) -> list[Problem]:
        """What is wrong between steps, or all of them together."""
        placed = [each for each, _ in self.written()]
        problems = reference_problems(placed, self.names)
        problems += name_problems(self.models, self.deltas)
        if not placed:
            problems.append(Problem(("steps",), "should not be empty"))
        return problems

    @property
    def by_id(self) -> Mapping[str, AnyStep]:
        """The steps that run, by id, in the order of the config, without names and deltas on the way."""
        steps = {step.id: step for _, step in self.written()}
        locations = {**self.models, **self.deltas}
        on_the_way = {
            name: step
            for name, step in steps.items()
            if isinstance(step, Compute) and is_fused(step.model_dump())
        }
        return {
            name: _resolve(step, locations, on_the_way)
            for name, step in steps.items()
            if name not in on_the_way
        }

    @property
    def graph(self) -> Graph:
        """Which step needs which."""
        return Graph({name: needs_of(step.model_dump()) for name, step in self.by_id.items()})


def _resolve(step: AnyStep, locations: Mapping[str, str], on_the_way: Mapping[str, Compute]) -> AnyStep:
    """`step` with names as the locations they stand for, and deltas on the way as differences."""

    def locate(text: str) -> str:
        return locations.get(text.removeprefix(MARK), text) if text.startswith(MARK) else text

    def term(written: Term | Difference) -> Term | Difference:
        if isinstance(written, Term):
            fused = on_the_way.get(written.delta.removeprefix(MARK))
            if fused is None or not written.delta.startswith(MARK):
                return written.model_copy(update={"delta": locate(written.delta)})
            written = Difference(base=fused.base, post=fused.post, scale=written.scale)
        return written.model_copy(update={"base": locate(written.base), "post": locate(written.post)})

    changes: dict[str, Any] = {}
    for key in (*MODELS, *EITHER):
        text = getattr(step, key, None)
        if text is not None:
            changes[key] = locate(text)
    if step.run in ("apply", "combine", "sweep"):
        changes["deltas"] = tuple(term(each) for each in step.deltas)
    if step.run == "analyze":
        changes["deltas"] = tuple(locate(each) for each in step.deltas)
    if step.run == "page":
        changes["reports"] = tuple(locate(each) for each in step.reports)
    return step.model_copy(update=changes)


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
    """The config that `data`, the content of the file `where`, is; variables come from the environment.

    Raises ConfigError with every problem: those of single fields and those between steps, each with
    its JSON path.
    """
    content, problems = load_json(data, where=where)
    content, unknown = fill_in(content, os.environ)
    problems += unknown
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        fields = field_problems(error)
        between = [each for found in _between_steps(error) for each in found.problems]
        between = between or problems_of_raw(content)
        # A place where something is wrong between steps often makes no sense alone either: said once.
        said = {problem.path for problem in (*between, *unknown)}
        problems += [problem for problem in fields if problem.path not in said] + between
    if problems:
        raise ConfigError(in_order(problems), where=where)
    return config


def _between_steps(error: ValidationError) -> Iterator[BetweenSteps]:
    for item in error.errors(include_url=False, include_input=False):
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, BetweenSteps):
            yield cause
