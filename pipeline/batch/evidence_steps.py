"""Steps that show what a model or a delta is, judge it, publish it: the written forms of their calls."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.batch.fields import (
    ConditionText,
    DeltaIn,
    DeviceName,
    FilePath,
    Id,
    ModelIn,
    ModelOut,
    NotEmpty,
    PlotsText,
    Released,
    ReportIn,
    ReportPlace,
    Scale,
    ScaledReport,
    ShownIn,
    Target,
    TierName,
)
from pipeline.batch.fusing import Fuses
from pipeline.batch.references import MAKES, Kind, published_kind
from pipeline.batch.terms import Model, StoredTerm

Texts = Annotated[tuple[FilePath, ...], Field(strict=False)]


class _Measures(Model):
    """What steps have in common that measure models.

    data: files of text and of questions, each FILE or NAME=FILE. reference: the new base really
    post-trained, or whatever else the model should be like. donor, donor_base: the delta's own two
    models. metrics: what is measured; None is all that data and models allow. lm_eval: tasks of
    lm-evaluation-harness. lm_eval_tasks: a folder of tasks beside its own. device: what runs the models.
    dtype: the format that they run in; auto is as they are stored. batch_size: rows at a time. seed: of
    all that is drawn. cache: where measurements are kept for the next time. overwrite: whether to
    replace a report of something else; None is the default's.
    """

    data: Texts = ()
    reference: ModelIn | None = None
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

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if not self.data and not self.lm_eval:
            raise ValueError("there is nothing to measure on: give data or lm_eval")
        return self


class Evaluate(_Measures):
    """A step that measures a model, and those that it is held against, and writes a report.

    id: what others call its report, by "@id". run: what the step does. model: what is judged. output:
    the report, a JSON file. base: the new base, without the delta.
    """

    id: Id
    run: Literal["evaluate"] = "evaluate"
    model: ModelIn
    output: ReportPlace
    base: ModelIn | None = None
    makes: ClassVar[Kind] = MAKES["evaluate"]


class Sweep(_Measures):
    """A step that measures a base with deltas at several scales, and says which is best by what.

    id: its name. run: what the step does. base: the model that the deltas are added to. deltas: each
    "DELTA", "DELTA=WEIGHT" or an object; scales are multiplied by weights. output: a new folder with
    sweep.json, of each scale an evaluation, and plots. scales: 0 is the base itself; None is 0 to 1.25
    by 0.25. making: fields of apply that say how deltas are put together and added. plots: formats of
    plots: svg, png, svg,png or none.
    """

    id: Id
    run: Literal["sweep"] = "sweep"
    base: ModelIn
    deltas: Annotated[tuple[StoredTerm, ...], Field(strict=False), NotEmpty]
    output: ModelOut
    scales: Annotated[tuple[Scale, ...], Field(strict=False), NotEmpty] | None = None
    making: Fuses = Fuses()
    plots: PlotsText | None = None
    makes: ClassVar[Kind] = MAKES["sweep"]


class Analyze(Model):
    """A step that says what deltas are made of, in figures and plots.

    id: what others call its folder, by "@id". run: what the step does. deltas: each a location, "@NAME"
    or "@STEP"; each pair is compared. output: a new folder with analysis.json and plots. base: a model
    whose tensors' norms are measured; None is what the deltas say of their own. plots: formats of plots:
    svg, png, svg,png or none. sketch: rows and columns from which singular values are sampled; 0 is
    none. evaluation: reports of evaluations whose scores are drawn, each "REPORT" or "REPORT=SCALE".
    overwrite: whether to replace an analysis of something else; None is the default's.
    """

    id: Id
    run: Literal["analyze"] = "analyze"
    deltas: Annotated[tuple[DeltaIn, ...], Field(strict=False), NotEmpty]
    output: ModelOut
    base: ModelIn | None = None
    plots: PlotsText | None = None
    sketch: Annotated[int, Field(ge=0)] | None = None
    evaluation: Annotated[tuple[ScaledReport, ...], Field(strict=False)] = ()
    overwrite: bool | None = None
    makes: ClassVar[Kind] = MAKES["analyze"]


class Page(Model):
    """A step that writes a web page of what steps and reports say.

    id: its name. run: what the step does. reports: what it is made from: reports, deltas, releases and
    folders of analyze, each a location, "@NAME" or "@STEP". output: a new folder with index.html.
    title: in place of the release's name. key: a public key or certificate (PEM), by which signatures
    are checked. overwrite: whether to replace a page that says something else; None is the default's.
    """

    id: Id
    run: Literal["page"] = "page"
    reports: Annotated[tuple[ShownIn, ...], Field(strict=False), NotEmpty]
    output: ModelOut
    title: str | None = None
    key: FilePath | None = None
    overwrite: bool | None = None
    makes: ClassVar[Kind] = MAKES["page"]


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
