"""The measuring itself: every model on every set of data, from the cache where it was done before.

A model is loaded when the first result is not in the cache, measured on all that is missing, and let go
of. Only what compares two models token by token has both in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.operations.evaluating.cache import Cache, Record, key_of
from pipeline.operations.evaluating.data import Data
from pipeline.operations.evaluating.models import Bench, Model
from pipeline.progress import Progressing
from pipeline.quality.choices import choose_answers
from pipeline.quality.divergence import DocumentDivergence, measure_divergence
from pipeline.quality.generation import generate_answers
from pipeline.quality.harness import Harness, run_tasks
from pipeline.quality.items import Item, parse_item
from pipeline.quality.likelihood import DocumentScore, measure_text
from pipeline.quality.questions import QuestionSet
from pipeline.quality.rectangles import seeded
from pipeline.quality.report import Measurement, Role
from pipeline.quality.subject import Subject
from pipeline.quality.texts import TextSet


@dataclass(frozen=True, slots=True)
class How:
    """Settings that figures depend on. versions: of the packages that compute."""

    batch_size: int
    seed: int
    device: str
    dtype: str
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Results:
    """What came of one model: its documents, its answers, and how far it is from the reference.

    harness: figures of the harness' tasks, whose samples are among the answers.
    """

    documents: Sequence[DocumentScore] = ()
    answers: Sequence[Item] = ()
    divergences: Sequence[DocumentDivergence] = ()
    harness: Mapping[str, Measurement] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measuring:
    """How models are measured on `data`; `measure` does it."""

    data: Sequence[Data]
    harness: Harness | None
    how: How
    cache: Cache
    bench: Bench
    progress: Progressing

    def measure(self, models: Mapping[Role, Model], *, token_by_token: bool) -> dict[Role, Results]:
        """The results of every role's model; of those that are the same, taken once.

        token_by_token: whether the model is also held against the reference at every token of the text.
        """
        done: dict[str, Results] = {}
        divergences: list[DocumentDivergence] = []
        if token_by_token:
            pair = models["model"], models["reference"]
            done |= {each.key: self._results(each) for each in pair}
            divergences = self._divergences(*pair)
            for each in pair:
                self.bench.free(each)
        for model in models.values():
            if model.key not in done:
                done[model.key] = self._results(model)
                self.bench.free(model)
        results = {role: done[model.key] for role, model in models.items()}
        results["model"] = replace(results["model"], divergences=divergences)
        return results

    def _divergences(self, model: Model, reference: Model) -> list[DocumentDivergence]:
        """How far the model is from the reference on each text, from the cache or measured now."""
        found: list[DocumentDivergence] = []
        for texts in self.data:
            if isinstance(texts, QuestionSet):
                continue
            key = self._key(model, "kl", texts, reference=reference.key)
            records = self.cache.get(key)
            if records is None or not _are_sound("kl", records):
                records = [divergence_record(each) for each in self._compared(model, reference, texts)]
                self.cache.put(key, records)
            found += [_divergence(record, texts.name) for record in records]
        return found

    def _compared(self, model: Model, reference: Model, texts: TextSet) -> Sequence[DocumentDivergence]:
        subjects = self.bench.subject(model), self.bench.subject(reference)
        with seeded(self.how.seed):
            return measure_divergence(
                *subjects, texts, batch=self.how.batch_size, progress=self.progress
            )

    def _results(self, model: Model) -> Results:
        documents: list[DocumentScore] = []
        answers: list[Item] = []
        for each in self.data:
            if isinstance(each, QuestionSet):
                answers += [_item(record, each.name) for record in self._kept(model, each)]
            else:
                documents += [_document(record, each.name) for record in self._kept(model, each)]
        figures: dict[str, Measurement] = {}
        if self.harness:
            for record in self._of_harness(model, self.harness):
                if "figure" in record:
                    figures[str(record["figure"])] = _figure(record)
                else:
                    answers.append(parse_item(record))
        return Results(documents, answers, harness=figures)

    def _of_harness(self, model: Model, harness: Harness) -> Sequence[Record]:
        """The records of one model's figures and samples in the harness' tasks."""
        key = key_of(model=model.key, kind="harness", data=harness.digest, how=asdict(self.how))
        records = self.cache.get(key)
        if records is None or not _are_sound("harness", records):
            how, subject = self.how, self.bench.subject(model)
            found = run_tasks(subject, harness, batch=how.batch_size, seed=how.seed)
            figures = [{"figure": name, **asdict(each)} for name, each in found.figures.items()]
            records = [*figures, *map(asdict, found.items)]
            self.cache.put(key, records)
        return records

    def _kept(self, model: Model, data: Data) -> Sequence[Record]:
        """The records of one model and one set: from the cache, or measured now and put there."""
        kind = "task" if isinstance(data, QuestionSet) else "text"
        key = self._key(model, kind, data)
        records = self.cache.get(key)
        if records is None or not _are_sound(kind, records):
            records = [asdict(each) for each in self._measured(self.bench.subject(model), data)]
            self.cache.put(key, records)
        return records

    def _key(self, model: Model, kind: str, data: Data, **more: str) -> str:
        # The name is in it because questions without a task have it for one.
        known = {"model": model.key, "kind": kind, "data": data.digest, "name": data.name}
        return key_of(**known, how=asdict(self.how), **more)

    def _measured(self, subject: Subject, data: Data) -> Iterable[Any]:
        with seeded(self.how.seed):
            if isinstance(data, QuestionSet):
                return answer(subject, data, batch=self.how.batch_size, progress=self.progress)
            return measure_text(subject, data, batch=self.how.batch_size, progress=self.progress)


def answer(subject: Subject, data: QuestionSet, *, batch: int, progress: Progressing) -> list[Item]:
    """The model's answers to all questions, in their order. Raises CorruptFile."""
    written = [each for each in data.questions if each.is_generated]
    chosen = [each for each in data.questions if not each.is_generated]
    total = sum(len(each.prompt.encode()) for each in data.questions)
    with progress(f"ask {data.name}", total) as advance:
        found = generate_answers(subject, written, data=data.name, batch=batch, advance=advance)
        found += choose_answers(subject, chosen, data=data.name, batch=batch, advance=advance)
    by_key = {item.key: item for item in found}
    return [by_key[each.task, each.id] for each in data.questions]


def _are_sound(kind: str, records: Sequence[Record]) -> bool:
    """Whether what a cache says can be what was put there."""
    try:
        for record in records:
            _READ[kind](record, "")
    except (ValueError, TypeError, KeyError):
        return False
    return True


def _item(record: Record, data: str) -> Item:
    return parse_item({**record, "data": data})


def divergence_record(of: DocumentDivergence) -> dict[str, Any]:
    """All of it as JSON has it."""
    return {**asdict(of), "kl": of.kl.tolist()}


def _divergence(record: Record, data: str) -> DocumentDivergence:
    numbers = {name: int(record[name]) for name in ("document", "tokens", "same_top")}
    kl = np.array([float(each) for each in record["kl"]])
    return DocumentDivergence(data=data, kl=kl, shared=float(record["shared"]), **numbers)


def _figure(record: Record) -> Measurement:
    error = record["standard_error"]
    known = None if error is None else float(error)
    return Measurement(float(record["value"]), known, int(record["count"]))


def _document(record: Record, data: str) -> DocumentScore:
    numbers = {name: int(record[name]) for name in ("document", "nbytes", "tokens", "finite", "logits")}
    return DocumentScore(data=data, nats=float(record["nats"]), **numbers)


_READ: Mapping[str, Callable[[Record, str], Any]] = {
    "task": _item,
    "text": _document,
    "kl": _divergence,
    "harness": lambda record, data: _figure(record) if "figure" in record else parse_item(record),
}
