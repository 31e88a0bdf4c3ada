"""Tasks of EleutherAI's lm-evaluation-harness, run through its Python API on a model that is loaded.

Prompts go through the chat template where the model has one. A task's figure is its own first metric
that is better when higher; all others are kept beside it, with the harness' standard errors. Its code is
trusted as installed; of the user's own task files nothing is run (see `task_files`), templates are
sandboxed, metrics are not fetched, and tasks that run what a model writes are refused.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from blake3 import blake3

from pipeline.errors import PipelineError, UsageError
from pipeline.quality.items import Item
from pipeline.quality.report import DataSet, Measurement
from pipeline.quality.scores import Figures
from pipeline.quality.subject import Subject
from pipeline.quality.task_files import check_folder

_INSTALL = "pip install -r requirements-lm-eval.txt"
_BOOTSTRAPS = 1000  # for metrics that are no means
_MAX_GIVEN = 10_000  # characters of an answer that is kept


@dataclass(frozen=True)
class Harness:
    """Tasks that are ready to be run. names: as asked for. data: a set for each, with its digest."""

    names: Sequence[str]
    manager: Any
    data: Sequence[DataSet]

    @property
    def digest(self) -> str:
        """BLAKE3 of all tasks' settings and documents, in hex."""
        return blake3("".join(each.digest for each in self.data).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class HarnessResult:
    """figures: `task:NAME` and `task:NAME.METRIC`. items: every sample, by its first metric."""

    figures: Figures
    items: Sequence[Item]


def open_tasks(names: Sequence[str], folder: str | None) -> Harness:
    """The tasks called `names`, of the harness or of the task files in `folder`; their data are loaded.

    Raises UsageError if the harness is not installed or knows no such task, or a task runs what a model
    writes; CorruptFile for task files that would run code.
    """
    try:
        from lm_eval.api.registry import metric_registry
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UsageError("lm-evaluation-harness is not installed", hint=_INSTALL) from error
    import lm_eval.api.metrics  # noqa: F401  # fills the registry

    if folder:
        check_folder(folder, set(metric_registry.keys()))
    manager = TaskManager(include_path=folder)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        where = f" nor in {folder}" if folder else ""
        what = f"there is no task {', '.join(map(repr, unknown))} in the harness{where}"
        raise UsageError(what, hint="lm-eval ls tasks shows them; --lm-eval-tasks DIR adds your own")
    with _contained():
        try:
            tasks = manager.load([*names])["tasks"]
        except Exception as error:  # of data sets, templates, downloads: anything
            raise _failed("the harness can't load its tasks", error) from error
    return Harness(tuple(names), manager, tuple(_data_set(*each) for each in tasks.items()))


def run_tasks(subject: Subject, harness: Harness, *, batch: int, seed: int) -> HarnessResult:
    """Run the tasks on the model; the seed is that of few-shot examples. Raises PipelineError."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    # It sets padding and special tokens of the tokenizer that it is given.
    tokenizer = copy.deepcopy(subject.tokenizer)
    with _contained():
        try:
            model = HFLM(
                pretrained=subject.model,
                tokenizer=tokenizer,
                batch_size=batch,
                max_length=subject.context,
            )
            found = simple_evaluate(
                model=model,
                tasks=[*harness.names],
                task_manager=harness.manager,
                apply_chat_template=bool(tokenizer.chat_template),
                log_samples=True,
                bootstrap_iters=_BOOTSTRAPS,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
        except Exception as error:  # of any kind: it is not ours
            raise _failed("the harness failed", error) from error
    return _result(found)


def _failed(what: str, error: Exception) -> PipelineError:
    first = (str(error) or type(error).__name__).splitlines()[0]
    return PipelineError(f"{what}: {first}", hint="--debug shows where")


def _data_set(name: str, task: Any) -> DataSet:
    documents = list(task.eval_docs)
    digest = blake3(repr(sorted(task.dump_config().items())).encode())
    for each in documents:
        digest.update(repr(each).encode())
    return DataSet(_word(name), "harness", digest.hexdigest(), len(documents))


def _word(name: str) -> str:
    """A name as figures can carry it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:100]


def _result(found: Mapping[str, Any]) -> HarnessResult:
    figures: Figures = {}
    items: list[Item] = []
    for name, row in found["results"].items():
        metrics = _metrics(row)
        if not metrics:
            continue
        better = found["higher_is_better"].get(name, {})
        first = next((each for each in metrics if better.get(each[0]) is not False), None)
        count = int(found["n-samples"].get(name, {}).get("effective", 0))
        task = _word(name)
        for key in metrics:
            figure = _measurement(row, key, count)
            if key == first:
                figures[f"task:{task}"] = figure
            suffix = key[0] if key[1] == "none" else f"{key[0]}_{key[1]}"
            figures[f"task:{task}.{_word(suffix)}"] = figure
        if first:
            items += _items(task, first, found["samples"].get(name, ()))
    return HarnessResult(figures, items)


def _metrics(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The metrics and filters of a task's row, in its order."""
    keys = [key.rpartition(",") for key, value in row.items() if isinstance(value, int | float)]
    return [(metric, rest) for metric, comma, rest in keys if comma and not metric.endswith("_stderr")]


def _measurement(row: Mapping[str, Any], key: tuple[str, str], count: int) -> Measurement:
    error = row.get(f"{key[0]}_stderr,{key[1]}")
    known = isinstance(error, int | float)
    return Measurement(float(row[",".join(key)]), float(error) if known else None, count)


def _items(task: str, key: tuple[str, str], samples: Sequence[Mapping[str, Any]]) -> Iterator[Item]:
    for sample in samples:
        score = sample.get(key[0])
        if sample.get("filter") != key[1] or not isinstance(score, int | float):
            continue
        response = sample["filtered_resps"][0] if sample["filtered_resps"] else ""
        values = [each[0] for each in sample["filtered_resps"] if isinstance(each, tuple | list)]
        given = response[:_MAX_GIVEN] if isinstance(response, str) else None
        yield Item(
            data=task,
            task=task,
            id=str(sample["doc_id"]),
            score=float(score),
            prompt=blake3(str(sample.get("prompt_hash")).encode()).hexdigest(),
            given=given,
            log_likelihoods=tuple(float(v) for v in values if isinstance(v, int | float)),
        )


@contextmanager
def _contained() -> Iterator[None]:
    """Without code from outside while the harness is at work, and its seeds kept to it."""
    import evaluate
    import lm_eval.utils
    import numpy as np
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    sandbox = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters.update(lm_eval.utils.env.filters)
    kept = lm_eval.utils.env, evaluate.load
    states = random.getstate(), np.random.get_state()
    lm_eval.utils.env, evaluate.load = sandbox, _refuse_metric
    try:
        yield
    finally:
        lm_eval.utils.env, evaluate.load = kept
        random.setstate(states[0])
        np.random.set_state(states[1])


def _refuse_metric(*names: object, **_: object) -> NoReturn:
    raise UsageError(f"the metric {names[:1]} would be fetched as code, which is not run")
