"""gate: whether the figures of an evaluation are what a release must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pipeline.checkpoints.files import read_file
from pipeline.errors import UsageError
from pipeline.quality.gate import judge
from pipeline.quality.report import Evaluation
from pipeline.quality.terms import Condition
from pipeline.quality.verdict import Verdict
from pipeline.settings import Settings
from pipeline.storage.base import Store
from pipeline.storage.errors import exists
from pipeline.storage.locations import parse_output_model
from pipeline.storage.opening import open_parent
from pipeline.tensors.fingerprint import digest_bytes


def gate(
    report: str,
    *,
    require: Sequence[str],
    output: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Verdict:
    """Judge the evaluation at `report`, a file or a blob, by the conditions `require`.

    A refusal is a verdict, too: look at its `passed`. output: where to keep it; the same verdict that
    lies there already is left as it is. docs/gates.md explains conditions.
    Raises UsageError for a condition that makes no sense, or of what was not measured; CorruptFile for
    a file that is no evaluation; OutputExists and others of `pipeline.errors`.
    """
    conditions = _parsed(require)
    settings = Settings.load()
    source = Kept.at(report, settings)
    data = source.read()
    evaluation = Evaluation.from_json(data.decode(errors="replace"), where=source.shown)
    target = None if output is None else Kept.at(output, settings)
    model = evaluation.model
    verdict = Verdict(
        report=source.shown,
        report_digest=str(digest_bytes(data)),
        model=model.location,
        fingerprint=model.fingerprint,
        require=tuple(require),
        judgements=judge(evaluation, conditions),
        output=None if target is None else target.shown,
    )
    if target is not None:
        target.keep(verdict, overwrite=overwrite, dry_run=dry_run)
    return verdict


def read_verdict(location: str, settings: Settings) -> Verdict:
    """The verdict that is kept at `location`. Raises NotFound, CorruptFile."""
    source = Kept.at(location, settings)
    return Verdict.from_json(source.read().decode(errors="replace"), where=source.shown)


@dataclass(frozen=True)
class Kept:
    """A place for a report or a verdict. shown: as people may see it."""

    store: Store
    name: str
    shown: str

    @classmethod
    def at(cls, location: str, settings: Settings) -> Self:
        """The place at `location`. Raises UsageError if it can't be one."""
        target = parse_output_model(location)
        return cls(*open_parent(target, settings), str(target))

    @property
    def is_taken(self) -> bool:
        """Whether anything lies there."""
        return self.store.stat(self.name) is not None

    def read(self) -> bytes:
        """What lies there. Raises NotFound."""
        return read_file(self.store, self.name)

    def holds(self, verdict: Verdict) -> bool:
        """Whether just this verdict lies there."""
        return self.is_taken and self.read() == verdict.to_json().encode()

    def keep(self, verdict: Verdict, *, overwrite: bool, dry_run: bool) -> None:
        """Put the verdict there, whole or not at all. Raises OutputExists."""
        if self.holds(verdict):
            return
        if self.is_taken and not overwrite:
            raise exists(self.shown)
        if dry_run:
            return
        data = verdict.to_json().encode()
        with self.store.create(self.name, size_hint=len(data), overwrite=overwrite) as writer:
            writer.write(0, data)
            writer.commit()


def _parsed(require: Sequence[str]) -> list[Condition]:
    """The conditions, all mistakes in them at once. Raises UsageError."""
    from pipeline.quality.conditions import parse_condition

    if not require:
        raise UsageError("a gate needs a condition", hint='add --require "task:x >= base - 2se"')
    found, problems = [], []
    for text in require:
        try:
            found.append(parse_condition(text))
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("; ".join(problems))
    return found
