"""What a run has done so far: its results as they come, and the report that they make."""

from __future__ import annotations

import platform
import resource
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from blake3 import blake3

from pipeline.batch.known import Known
from pipeline.batch.report import BatchReport, ReportFile, StepResult

_KIB = 1024
_PACKAGES = ("numpy", "numba", "blake3", "azure-storage-blob", "huggingface-hub")


class Record:
    """The results of a run. Safe to use from several threads.

    The report is written after every step: a run that is killed leaves what it knew.
    """

    def __init__(
        self,
        config: str | None,
        data: bytes,
        order: Sequence[str],
        known: Known,
        file: ReportFile | None,
    ) -> None:
        """A run of the steps `order` of `config`, whose bytes are `data`. No file: a dry run."""
        self.results: dict[str, StepResult] = {}
        self.config = config
        self.dry_run = file is None
        self._digest = blake3(data).hexdigest()
        self._order = order
        self._known = known
        self._file = file
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._clock = time.monotonic()
        self._lock = threading.Lock()
        self._last: BatchReport | None = None

    def add(self, result: StepResult) -> None:
        """Take the result of a step. Raises PipelineError if the report can't be written."""
        with self._lock:
            self.results[result.id] = result
        self.save()

    def save(self) -> BatchReport:
        """Write the report as it stands, unless it is a dry run's; returns it."""
        with self._lock:
            self._last = self._report()
            if self._file is not None:
                self._file.write(self._last)
            return self._last

    @property
    def last(self) -> BatchReport:
        """The report as it was written last."""
        return self._last or self.save()

    def _report(self) -> BatchReport:
        steps = [self.results[name] for name in self._order if name in self.results]
        return BatchReport(
            config=self.config,
            config_digest=self._digest,
            started=self._started,
            seconds=round(time.monotonic() - self._clock, 3),
            dry_run=self.dry_run,
            steps=steps,
            finished=len(steps) == len(self._order),
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB,
            versions=_versions(),
            known={} if self.dry_run else self._known.as_json(),
        )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
