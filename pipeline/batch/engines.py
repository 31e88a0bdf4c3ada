"""Where steps run. A step is a pure function of its specification, and does not know."""

from __future__ import annotations

from typing import Any, Protocol

from pipeline.batch.specification import Specification
from pipeline.engine.schedule import Limits
from pipeline.progress import Progressing


class Engine(Protocol):
    """Performs steps. Several threads may call it at once."""

    def perform(self, spec: Specification, *, limits: Limits, progress: Progressing) -> dict[str, Any]:
        """Do what `spec` says, and return its operation's report. Raises what the operation raises."""


class LocalEngine:
    """This process."""

    def perform(self, spec: Specification, *, limits: Limits, progress: Progressing) -> dict[str, Any]:
        """See `Engine`."""
        return spec.perform(limits=limits, progress=progress)
