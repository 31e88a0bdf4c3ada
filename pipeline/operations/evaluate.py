"""evaluate: what a model can do, measured on text and on questions, and held against other models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Unpack

from pipeline.checkpoints.checkpoint import open_checkpoint
from pipeline.errors import UsageError
from pipeline.operations.evaluating.cache import Cache
from pipeline.operations.evaluating.data import Data, read_data
from pipeline.operations.evaluating.figures import TOKEN_BY_TOKEN, all_figures, choose_metrics
from pipeline.operations.evaluating.measuring import How, Measuring, Results
from pipeline.operations.evaluating.models import Bench, identify
from pipeline.operations.evaluating.publishing import ReportPlace
from pipeline.operations.setup import Reading, Setup
from pipeline.quality.harness import Harness, open_tasks
from pipeline.quality.questions import QuestionSet
from pipeline.quality.rectangles import DEFAULT_BATCH
from pipeline.quality.report import ROLES, DataSet, Evaluation, Role, Scores
from pipeline.quality.subject import choose_device
from pipeline.quality.weights import DTYPES

_COMPUTING = ("torch", "transformers", "tokenizers", "lm_eval")


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
    made of. metrics: see `pipeline.quality.report`; all that models and data allow unless said.
    lm_eval: tasks of EleutherAI's harness; lm_eval_tasks: a folder with task files of one's own.
    output: location of the report; `items`: whether what came of each document and question is put
    beside it. device: auto, cpu or cuda. dtype: of the arithmetic; "auto" is as stored. batch_size: rows
    at once, of short ones. cache: folder of results that need not be measured again, "off" for none; by
    default in the user's own cache. dry_run: check all that can be known from headers and data; measure
    nothing. options: see `Reading`.

    Every model is loaded once at most and let go of after; where two are held together token by token,
    both are in memory. Raises the errors of `pipeline.errors`.
    """
    started, began = datetime.now(UTC), time.monotonic()
    setup = Setup.of(options)
    named = _by_role(model=model, base=base, reference=reference, donor_base=donor_base, donor=donor)
    place = ReportPlace.at(output, setup.settings, overwrite=overwrite) if output else None
    names = place.items(named) if place and items else {}
    if place:
        place.refuse_taken(names)
    sets = read_data(data or (), setup.settings)
    harness = _open_harness(lm_eval, lm_eval_tasks)
    more = harness.data if harness else ()
    chosen = _choose(metrics, named, sets, has_harness=bool(more))
    how = _how(device=device, dtype=dtype, batch_size=batch_size, seed=seed)
    report = Evaluation(
        scores={},
        data=(*map(_data_set, sets), *more),
        settings={**asdict(how), "metrics": chosen},
        items=names,
        started=started.isoformat(timespec="seconds"),
    )
    if dry_run:
        return _with(report, scores=_planned(named, setup), began=began)
    models = identify(named, **options)
    bench = Bench(setup, dtype=dtype, device=how.device)
    measuring = Measuring(sets, harness, how, Cache.at(cache), bench, setup.progress)
    results: dict[Role, Results] = measuring.measure(
        models, token_by_token=bool({*chosen} & {*TOKEN_BY_TOKEN})
    )
    figures = all_figures(results, chosen)
    scores = {
        role: Scores(each.location, each.fingerprint, figures[role]) for role, each in models.items()
    }
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


def _words(given: Sequence[str] | None) -> list[str]:
    """Words that may be given one by one or with commas between."""
    return [word for text in given or () for word in text.split(",") if word]


def _open_harness(tasks: Sequence[str] | None, folder: str | None) -> Harness | None:
    names = _words(tasks)
    if not names:
        return None
    return open_tasks(names, folder)


def _choose(
    metrics: Sequence[str] | None, named: Mapping[Role, str], sets: Sequence[Data], *, has_harness: bool
) -> list[str]:
    if not sets and not has_harness:
        raise UsageError("there is nothing to measure on", hint="add --data FILE")
    tasks = [isinstance(each, QuestionSet) for each in sets]
    return choose_metrics(
        _words(metrics) or None,
        [*named],
        has_text=not all(tasks),
        has_tasks=any(tasks) or has_harness,
    )


def _how(*, device: str, dtype: str, batch_size: int, seed: int) -> How:
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} holds nothing", hint="use --batch-size 1 or more")
    if dtype not in DTYPES:
        raise UsageError(f"{dtype!r} is not a dtype for models", hint=f"use {', '.join(DTYPES)}")
    return How(batch_size, seed, choose_device(device), dtype, _versions(_COMPUTING))


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _data_set(data: Data) -> DataSet:
    if isinstance(data, QuestionSet):
        return DataSet(data.name, "task", data.digest, len(data.questions))
    return DataSet(data.name, "text", data.digest, len(data.documents))


def _planned(named: Mapping[Role, str], setup: Setup) -> dict[Role, Scores]:
    """The models as their headers show them, with no figures. Raises what `open_checkpoint` does."""
    scores: dict[Role, Scores] = {}
    for role, text in named.items():
        with open_checkpoint(text, settings=setup.settings, headers_only=True) as checkpoint:
            scores[role] = Scores(checkpoint.location, "", {})
    return scores


def _with(report: Evaluation, *, scores: Mapping[Role, Scores], began: float) -> Evaluation:
    return replace(report, scores=scores, seconds=round(time.monotonic() - began, 3))
