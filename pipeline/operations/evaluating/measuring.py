"""The measuring itself: every model on every set of data, from the cache where it was done before.

A model is loaded when the first result is not in the cache, measured on all that is missing, and let go
of. Only what compares two models token by token has both in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.operations.evaluating.cache import Cache, Record, key_of
from pipeline.operations.evaluating.data import Data
from pipeline.operations.evaluating.models import Bench, Model
from pipeline.progress import Progressing
from pipeline.quality.choices import choose_answers
from pipeline.quality.generation import generate_answers
from pipeline.quality.items import Item, parse_item
from pipeline.quality.likelihood import DocumentScore, measure_text
from pipeline.quality.questions import QuestionSet
from pipeline.quality.rectangles import seeded
from pipeline.quality.report import Role
from pipeline.quality.subject import Subject


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
    """What came of one model: its documents, and its answers."""

    documents: Sequence[DocumentScore] = ()
    answers: Sequence[Item] = ()


@dataclass(frozen=True, slots=True)
class Measuring:
    """How models are measured on `data`; `measure` does it."""

    data: Sequence[Data]
    how: How
    cache: Cache
    bench: Bench
    progress: Progressing

    def measure(self, models: Mapping[Role, Model]) -> dict[Role, Results]:
        """The results of every role's model; of those that are the same, taken once."""
        done: dict[str, Results] = {}
        for model in models.values():
            if model.key not in done:
                done[model.key] = self._results(model)
                self.bench.free(model)
        return {role: done[model.key] for role, model in models.items()}

    def _results(self, model: Model) -> Results:
        documents: list[DocumentScore] = []
        answers: list[Item] = []
        for each in self.data:
            if isinstance(each, QuestionSet):
                answers += [_item(record, each.name) for record in self._kept(model, each)]
            else:
                documents += [_document(record, each.name) for record in self._kept(model, each)]
        return Results(documents, answers)

    def _kept(self, model: Model, data: Data) -> Sequence[Record]:
        """The records of one model and one set: from the cache, or measured now and put there."""
        kind = "task" if isinstance(data, QuestionSet) else "text"
        key = key_of(model=model.key, kind=kind, data=data.digest, name=data.name, how=asdict(self.how))
        records = self.cache.get(key)
        if records is None or not _are_sound(kind, records):
            records = [asdict(each) for each in self._measured(self.bench.subject(model), data)]
            self.cache.put(key, records)
        return records

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
            _item(record, "") if kind == "task" else _document(record, "")
    except (ValueError, TypeError, KeyError):
        return False
    return True


def _item(record: Record, data: str) -> Item:
    return parse_item({**record, "data": data})


def _document(record: Record, data: str) -> DocumentScore:
    numbers = {name: int(record[name]) for name in ("document", "nbytes", "tokens", "finite", "logits")}
    return DocumentScore(data=data, nats=float(record["nats"]), **numbers)
