"""evaluate: what a model can do, measured on text and on questions, and held against other models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Unpack

from pipeline.checkpoints.adapters.post import open_model
from pipeline.operations.evaluating.cache import Cache
from pipeline.operations.evaluating.models import Bench, base_of, identify
from pipeline.operations.evaluating.preparing import Prepared
from pipeline.operations.evaluating.publishing import ReportPlace
from pipeline.operations.setup import Reading, Setup
from pipeline.quality.rectangles import DEFAULT_BATCH
from pipeline.quality.report import ROLES, Evaluation, Role, Scores


def evaluate(
    model: str,
    *,
    data: Sequence[str] | None = None,
    reference: str | None = None,
    base: str | None = None,
    donor: str | None = None,
    donor_base: str | None = None,
    metrics: Sequence[str] | None = None,
    lm_eval: Sequence[str] | None = None,
    lm_eval_tasks: str | None = None,
    output: str | None = None,
    items: bool = True,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = DEFAULT_BATCH,
    seed: int = 0,
    cache: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    **options: Unpack[Reading],
) -> Evaluation:
    """Measure `model`, and the models that it is held against, on the same data.

    data: files, "FILE" or "NAME=FILE": text (see `pipeline.quality.texts`) or questions (see
    `pipeline.quality.questions`). reference: what the model should be like: the new base really
    post-trained. base: the new base, without the delta. donor, donor_base: the models that the delta was
    made of. Of these, model and reference may be LoRA adapters of `base`, donor one of `donor_base`.
    metrics: see `pipeline.quality.report`; all that models and data allow unless said.
    lm_eval: tasks of EleutherAI's harness; lm_eval_tasks: a folder with task files of one's own.
    output: location of the report; `items`: whether what came of each document and question is put
    beside it. device: auto, cpu or cuda. dtype: of the arithmetic; "auto" is as stored. batch_size: rows
    at once, of short ones. cache: folder of results that need not be measured again, "off" for none; by
    default in the user's own cache. dry_run: check all that can be known from headers and data; measure
    nothing. options: see `Reading`.

    Every model is loaded once at most and let go of after; where two are held together token by token,
    both are in memory. Raises the errors of `pipeline.errors`.
    """
    began = time.monotonic()
    setup = Setup.of(options)
    named = _by_role(model=model, base=base, reference=reference, donor_base=donor_base, donor=donor)
    place = ReportPlace.at(output, setup.settings, overwrite=overwrite) if output else None
    names = place.items(named) if place and items else {}
    if place:
        place.refuse_taken(names)
    prepared = Prepared.of(
        [*named], setup.settings, data=data, metrics=metrics, lm_eval=lm_eval,
        lm_eval_tasks=lm_eval_tasks, device=device, dtype=dtype, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    report = prepared.report(names)
    if dry_run:
        return _with(report, scores=_planned(named, setup), began=began)
    models, bench = identify(named, **options), Bench(setup, prepared.how)
    scores, results = prepared.measure(models, Cache.at(cache), bench, setup.progress)
    report = _with(report, scores=scores, began=began)
    if place:
        place.publish(report, results)
    return report


def _by_role(**named: str | None) -> dict[Role, str]:
    found: dict[Role, str] = {}
    for role in ROLES:
        text = named[role]
        if text is not None:
            found[role] = text
    return found


def _planned(named: Mapping[Role, str], setup: Setup) -> dict[Role, Scores]:
    """The models as their headers show them, with no figures. Raises what `open_model` does."""
    scores: dict[Role, Scores] = {}
    for role, text in named.items():
        base = base_of(role, named)
        with open_model(text, base=base, settings=setup.settings, headers_only=True) as checkpoint:
            scores[role] = Scores(checkpoint.location, "", {})
    return scores


def _with(report: Evaluation, *, scores: Mapping[Role, Scores], began: float) -> Evaluation:
    return replace(report, scores=scores, seconds=round(time.monotonic() - began, 3))
