"""Where a batch's results go besides the report: JUnit XML, a Markdown summary, GitHub's job summary."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pipeline.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from pipeline.batch.events import Event
    from pipeline.batch.report import ReportFile

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True)
class Results:
    """junit, summary: locations of files that are replaced. job_summary: a file that is added to.

    They are written when a run ends, interrupted or not.
    """

    junit: str | None
    summary: str | None
    job_summary: str | None

    @classmethod
    def wanted(cls, *, junit: str | None, summary: str | None) -> Self:
        """What the options and the environment ask for."""
        return cls(junit, summary, os.environ.get(STEP_SUMMARY) or None)

    def hear(self, event: Event) -> None:
        """Look, when a run starts, whether all can be written; and write it when the run ends.

        Raises PipelineError if something can't be.
        """
        from pipeline.batch.events import RunEnded, RunStarted

        match event:
            case RunStarted():
                for location in filter(None, (self.junit, self.summary)):
                    _file(location).check()
            case RunEnded(report):
                from pipeline.batch.junit import as_junit
                from pipeline.batch.summary import as_summary

                if self.junit:
                    _file(self.junit).put(as_junit(report))
                self._summarise(as_summary(report))

    @contextmanager
    def of_problems(self) -> Iterator[None]:
        """Summarise what is wrong with a config that the block refuses."""
        try:
            yield
        except ConfigError as error:
            from pipeline.batch.summary import summarise_problems

            self._summarise(summarise_problems(error))
            raise

    def _summarise(self, text: str) -> None:
        if self.summary:
            _file(self.summary).put(text)
        if self.job_summary:
            try:
                with Path(self.job_summary).open("a", encoding="utf-8", errors="replace") as file:
                    file.write(text + "\n")
            except OSError as error:
                what = f"the job's summary can't be written: {error.strerror}"
                raise StorageError(what, where=self.job_summary, hint=f"unset {STEP_SUMMARY}") from error


def _file(location: str) -> ReportFile:
    from pipeline.batch.report import ReportFile
    from pipeline.settings import Settings

    return ReportFile.at(location, Settings.load())
