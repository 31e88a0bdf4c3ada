"""What is measured and how, checked before any model is read: the same for one model and for several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Self, TypedDict, Unpack

from pipeline.errors import UsageError
from pipeline.operations.evaluating.cache import Cache
from pipeline.operations.evaluating.data import Data, read_data
from pipeline.operations.evaluating.figures import TOKEN_BY_TOKEN, all_figures, choose_metrics
from pipeline.operations.evaluating.measuring import Measuring, Results
from pipeline.operations.evaluating.models import Bench, How, Model
from pipeline.progress import Progressing
from pipeline.quality.harness import Harness, open_tasks
from pipeline.quality.questions import QuestionSet
from pipeline.quality.rectangles import DEFAULT_BATCH
from pipeline.quality.report import DataSet, Evaluation, Role, Scores
from pipeline.quality.subject import choose_device
from pipeline.quality.weights import DTYPES
from pipeline.settings import Settings

_COMPUTING = ("torch", "transformers", "tokenizers", "lm_eval")


class Measured(TypedDict, total=False):
    """What is measured, and how; see `evaluate` for each."""

    data: Sequence[str] | None
    metrics: Sequence[str] | None
    lm_eval: Sequence[str] | None
    lm_eval_tasks: str | None
    device: str
    dtype: str
    batch_size: int
    seed: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is measured, of whatever models. metrics: by name, in their order."""

    sets: Sequence[Data]
    harness: Harness | None
    metrics: Sequence[str]
    how: How

    @classmethod
    def of(cls, roles: Sequence[Role], settings: Settings, **wanted: Unpack[Measured]) -> Self:
        """Read the data and check the rest, for models in these roles.

        Raises UsageError for what can't be measured, and what `read_data` does.
        """
        sets = read_data(wanted.get("data") or (), settings)
        harness = _open_harness(wanted.get("lm_eval"), wanted.get("lm_eval_tasks"))
        metrics = _choose(wanted.get("metrics"), roles, sets, has_harness=harness is not None)
        how = _how(
            device=wanted.get("device", "auto"),
            dtype=wanted.get("dtype", "auto"),
            batch_size=wanted.get("batch_size", DEFAULT_BATCH),
            seed=wanted.get("seed", 0),
        )
        return cls(sets, harness, metrics, how)

    def report(self, items: Mapping[Role, str]) -> Evaluation:
        """The report as far as it is known before anything is measured."""
        return Evaluation(
            scores={},
            data=(*map(_data_set, self.sets), *(self.harness.data if self.harness else ())),
            settings={**asdict(self.how), "metrics": [*self.metrics]},
            items=items,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def measure(
        self, models: Mapping[Role, Model], cache: Cache, bench: Bench, progress: Progressing
    ) -> tuple[dict[Role, Scores], dict[Role, Results]]:
        """The figures of every role, and the results that they were made of."""
        measuring = Measuring(self.sets, self.harness, self.how, cache, bench, progress)
        token_by_token = bool({*self.metrics} & {*TOKEN_BY_TOKEN})
        results = measuring.measure(models, token_by_token=token_by_token)
        figures = all_figures(results, self.metrics)
        scores = {
            role: Scores(each.location, each.fingerprint, figures[role]) for role, each in models.items()
        }
        return scores, results


def _words(given: Sequence[str] | None) -> list[str]:
    """Words that may be given one by one or with commas between."""
    return [word for text in given or () for word in text.split(",") if word]


def _open_harness(tasks: Sequence[str] | None, folder: str | None) -> Harness | None:
    names = _words(tasks)
    if not names:
        return None
    return open_tasks(names, folder)


def _choose(
    metrics: Sequence[str] | None, roles: Sequence[Role], sets: Sequence[Data], *, has_harness: bool
) -> list[str]:
    if not sets and not has_harness:
        raise UsageError("there is nothing to measure on", hint="add --data FILE")
    tasks = [isinstance(each, QuestionSet) for each in sets]
    return choose_metrics(
        _words(metrics) or None,
        roles,
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
