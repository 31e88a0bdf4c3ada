"""The steps of a batch config, each the written form of one operation's call."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from pipeline.batch.fields import (
    CodecName,
    ConditionText,
    DeltaIn,
    DeltaOut,
    DeviceName,
    DTypeName,
    FilePath,
    Id,
    ModelIn,
    ModelOut,
    NotEmpty,
    Released,
    Repo,
    ReportIn,
    ReportPlace,
    Scale,
    Size,
    Target,
    TierName,
)
from pipeline.batch.problems import field_problems
from pipeline.batch.references import MAKES, Kind, published_kind
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


class _Writes(Model):
    """What steps that write have in common. output: see each.

    sign_key: a private key (PEM) that signs the output. tier: the access tier of blobs that are written;
    None is the account's. overwrite: whether to replace an output that is another than this step's; None
    is the default's.
    """

    sign_key: FilePath | None = None
    tier: TierName | None = None
    overwrite: bool | None = None


class _Pushes(_Writes):
    """What steps have in common whose output may go to the Hub, too.

    push_to_hub: the repository there, org/name. private: whether a new repository is made private.
    revision: the repository's branch; None is main.
    """

    push_to_hub: Repo | None = None
    private: bool = False
    revision: str | None = None


class Pair(_Pushes):
    """A base model and its post-trained version, and where their difference goes.

    base: the model that was post-trained. post: what came of it. output: the delta, a name in the store
    or a location. dtype: the format of its values; auto is post's. codec: rans packs it, losslessly;
    none leaves it to any reader of safetensors.
    """

    base: ModelIn
    post: ModelIn
    output: DeltaOut | None = None
    dtype: DTypeName | None = None
    codec: CodecName = "rans"


class Compute(Pair):
    """A step that writes the delta post - base; without an output it is taken on the way into sums.

    id: what others call its output, by "@id". run: what the step does.
    """

    id: Id
    run: Literal["compute"] = "compute"
    makes: ClassVar[Kind] = MAKES["compute"]


class Apply(_Pushes):
    """A step that writes the model base + the sum of scale * delta.

    id: what others call its output, by "@id". run: what the step does. base: the model that the deltas
    are added to. deltas: each "DELTA", "DELTA=SCALE", or an object with a delta, or with the base and
    post of a difference that is taken on the way. output: a new model folder. scale: of deltas that have
    none of their own. dtype: the format of the weights; auto is base's. shard_size: of the files of
    weights, as "5GiB". old_base: the base that the first delta was made of, to report how far the new
    one is from it. key: a public key or certificate (PEM) that must have signed the deltas.
    require_signature: whether deltas that are not signed are refused.
    """

    id: Id
    run: Literal["apply"] = "apply"
    base: ModelIn
    deltas: Terms
    output: ModelOut
    scale: Scale = 1.0
    dtype: DTypeName | None = None
    shard_size: Size | None = None
    old_base: ModelIn | None = None
    key: FilePath | None = None
    require_signature: bool = False
    makes: ClassVar[Kind] = MAKES["apply"]


class Combine(_Writes):
    """A step that writes the sum of scale * delta as one delta.

    id: what others call its output, by "@id". run: what the step does. deltas: each "DELTA",
    "DELTA=SCALE" or an object. output: the delta, a name in the store or a location. codec: rans packs
    it, losslessly; none leaves it to any reader of safetensors.
    """

    id: Id
    run: Literal["combine"] = "combine"
    deltas: Annotated[tuple[StoredTerm, ...], Field(strict=False), NotEmpty]
    output: DeltaOut
    codec: CodecName = "rans"
    makes: ClassVar[Kind] = MAKES["combine"]


class Verify(Model):
    """A step that checks a delta or a model, and fails if it is not whole, or not whose it should be.

    id: its name. run: what the step does. target: the delta, or a model that apply wrote. base: the
    model that a delta must be made of. post: the model that a delta must give back. key: a public key or
    certificate (PEM) that must have signed it. require_signature: whether it must be signed.
    """

    id: Id
    run: Literal["verify"] = "verify"
    target: Target
    base: ModelIn | None = None
    post: ModelIn | None = None
    key: FilePath | None = None
    require_signature: bool = False
    output: ClassVar[None] = None
    makes: ClassVar[None] = None


Texts = Annotated[tuple[FilePath, ...], Field(strict=False)]


class Evaluate(Model):
    """A step that measures a model, and those that it is held against, and writes a report.

    id: what others call its report, by "@id". run: what the step does. model: what is judged. data:
    files of text and of questions, each FILE or NAME=FILE. output: the report, a JSON file. reference:
    the new base really post-trained, or whatever else the model should be like. base: the new base,
    without the delta. donor, donor_base: the delta's own two models. metrics: what is measured; None is
    all that data and models allow. lm_eval: tasks of lm-evaluation-harness. lm_eval_tasks: a folder of
    tasks beside its own. device: what runs the models. dtype: the format that they run in; auto is as
    they are stored. batch_size: rows at a time. seed: of all that is drawn. cache: where measurements
    are kept for the next time. overwrite: whether to replace a report of something else; None is the
    default's.
    """

    id: Id
    run: Literal["evaluate"] = "evaluate"
    model: ModelIn
    data: Texts = ()
    output: ReportPlace
    reference: ModelIn | None = None
    base: ModelIn | None = None
    donor: ModelIn | None = None
    donor_base: ModelIn | None = None
    metrics: Annotated[Texts, NotEmpty] | None = None
    lm_eval: Texts = ()
    lm_eval_tasks: FilePath | None = None
    device: DeviceName | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    cache: FilePath | None = None
    overwrite: bool | None = None
    makes: ClassVar[Kind] = MAKES["evaluate"]

    @model_validator(mode="after")
    def _check_data(self) -> Evaluate:
        if not self.data and not self.lm_eval:
            raise ValueError("there is nothing to measure on: give data or lm_eval")
        return self


class Gate(Model):
    """A step that judges an evaluation; what needs it is done only if all that it requires holds.

    id: what others call its verdict, by "@id". run: what the step does. of: the report of an evaluation.
    require: conditions, as "every task >= base - 2se". output: the verdict, a JSON file. overwrite:
    whether to replace a verdict on something else; None is the default's.
    """

    id: Id
    run: Literal["gate"] = "gate"
    of: ReportIn
    require: Annotated[tuple[ConditionText, ...], Field(strict=False), NotEmpty]
    output: ReportPlace
    overwrite: bool | None = None
    makes: ClassVar[Kind] = MAKES["gate"]


class Publish(Model):
    """A step that copies a finished delta or model to its final name, once its gates let it pass.

    id: what others call its output, by "@id". run: what the step does. source: the delta or the model
    folder. output: the final name or location; a delta's ends with .safetensors, and a plain one is in
    the store. gates: verdicts, of just this model, or for a delta of one that was made by it. tier: the
    access tier of blobs that are written; None is the account's. overwrite: whether to replace another
    release; None is the default's.
    """

    id: Id
    run: Literal["publish"] = "publish"
    source: Target
    output: Released
    gates: Annotated[tuple[ReportIn, ...], Field(strict=False), NotEmpty]
    tier: TierName | None = None
    overwrite: bool | None = None

    @property
    def makes(self) -> Kind:
        """A delta or a model, as the output's name says."""
        return published_kind(self.output)


AnyStep = Compute | Apply | Combine | Verify | Evaluate | Gate | Publish
Step = Annotated[AnyStep, Field(discriminator="run")]


def given(step: AnyStep, *names: str) -> dict[str, Any]:
    """Those of the step's fields that say anything, by name."""
    values = {name: getattr(step, name) for name in names}
    return {name: value for name, value in values.items() if value not in (None, False, ())}
