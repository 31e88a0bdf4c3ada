"""What a batch run did, step by step, and the file that says so.

Locations come from the operations' own reports, where credentials are left out; nothing of the config
itself is copied but its digest. The file is what the next run knows, too: see `known`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.batch.known import Known
from pipeline.checkpoints.files import MAX_JSON_BYTES, read_file
from pipeline.errors import AccessError, PipelineError, Refused, StepFailed
from pipeline.redaction import redact
from pipeline.settings import Settings
from pipeline.storage.base import Store
from pipeline.storage.locations import parse_output_model
from pipeline.storage.opening import open_parent
from pipeline.version import TOOL

Status = Literal["done", "fresh", "failed", "skipped", "planned"]
INTERRUPTED = 130  # as a shell has it: 128 and the number of SIGINT
_TRIES = 8  # at writing a report that others write, too
_WAIT_S = 0.5  # at most, before the next
_WELL: tuple[Status, ...] = ("done", "fresh", "planned")


@dataclass(frozen=True, slots=True)
class StepResult:
    """How one step ended.

    id: the step's. run: what it does. seconds: how long it took. status: "fresh" if what it would write
    was there already. reason: why it had to run. error: why it failed or was skipped. exit_code: what
    the step alone would have exited with. key: the digest of what it does and what it does it to; the
    same key is the same result. result: the operation's report, on a dry run of what it would do.
    waits_for: on a dry run, the needed steps whose outputs are not there yet, so that there were no
    headers to plan from.
    """

    id: str
    run: str
    status: Status
    seconds: float = 0.0
    reason: str | None = None
    error: str | None = None
    exit_code: int = 0
    key: str | None = None
    result: Mapping[str, Any] | None = None
    waits_for: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class BatchReport:
    """How a run ended.

    ok: whether no step failed or was skipped. config: the config's path, None if it was given as an
    object. config_digest: BLAKE3 of the file's bytes, or of the object as JSON. started: UTC, ISO 8601.
    seconds: how long the run took. dry_run: whether it was only planned. finished: whether all steps
    have ended. peak_memory_bytes: of this process. versions: of what could matter. steps: in the order
    of the run. known: fingerprints of checkpoints by identity, and the keys of checks that were passed.
    tool: who wrote it.
    """

    config: str | None
    config_digest: str
    started: str
    seconds: float
    dry_run: bool
    steps: Sequence[StepResult]
    finished: bool = True
    peak_memory_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    known: Mapping[str, Any] = field(default_factory=dict)
    tool: str = TOOL

    @property
    def ok(self) -> bool:
        """Whether no step failed or was skipped."""
        return all(step.status in _WELL for step in self.steps)

    @property
    def exit_code(self) -> int:
        """What a process exits with that did this: see `pipeline.errors`."""
        if self.ok:
            return 0
        if any(step.exit_code == INTERRUPTED for step in self.steps):
            return INTERRUPTED
        failed = {step.exit_code for step in self.steps if step.status == "failed"}
        alone = failed.pop() if len(failed) == 1 else None
        return alone if alone in (AccessError.exit_code, Refused.exit_code) else StepFailed.exit_code

    def count(self, *statuses: Status) -> int:
        """How many steps ended in one of these ways."""
        return sum(step.status in statuses for step in self.steps)

    def to_json(self) -> str:
        """The report as a JSON object, with `ok`. Errors of others are quoted in it: it is redacted."""
        return redact(json.dumps({"ok": self.ok, **asdict(self)}, indent=2, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class ReportFile:
    """The place of a report: a log of the last run, so an older one there is replaced."""

    store: Store
    name: str

    @classmethod
    def at(cls, location: str, settings: Settings) -> ReportFile:
        """The report's place."""
        return cls(*open_parent(parse_output_model(location), settings))

    def check(self) -> None:
        """See whether it can be written. Raises PipelineError if not.

        Looking first saves people from hours of work that nothing tells of.
        """
        with self.store.create(self.name, size_hint=0, overwrite=True):
            pass  # left without a commit: nothing changes

    def known(self) -> Known:
        """What the last run knew; nothing, if there is no report that can be read."""
        try:
            found = self.store.stat(self.name)
            if found is None or found.nbytes > MAX_JSON_BYTES:
                return Known()
            return Known.parse(json.loads(read_file(self.store, self.name))["known"])
        except (PipelineError, ValueError, KeyError, TypeError, RecursionError):
            return Known()

    def write(self, report: BatchReport) -> None:
        """Put `report` there, whole or not at all. Raises PipelineError."""
        self.put(report.to_json() + "\n")

    def put(self, text: str) -> None:
        """Put `text` there, whole or not at all. Raises PipelineError."""
        data = text.encode(errors="backslashreplace")
        with self.store.create(self.name, size_hint=len(data), overwrite=True) as writer:
            writer.write(0, data)
            writer.commit()


def default_place(config: str | None) -> str:
    """Where the report goes if the config does not say."""
    return f"./reports/{Path(config).stem if config else 'batch'}.json"
