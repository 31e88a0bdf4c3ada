"""Where steps run. A step is a pure function of its specification, and does not know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline.batch.specification import Specification
from pipeline.engine.schedule import Limits
from pipeline.errors import UsageError
from pipeline.progress import Progressing


class Engine(Protocol):
    """Performs steps. Several threads may call it at once."""

    def limits(self, memory_bytes: int, workers: int | None, jobs: int) -> Limits:
        """What each of `jobs` steps at a time may use, of what the run was given.

        Raises UsageError if it can't be had.
        """

    def perform(self, spec: Specification, *, limits: Limits, progress: Progressing) -> dict[str, Any]:
        """Do what `spec` says, and return its operation's report. Raises what the operation raises."""


class LocalEngine:
    """This process."""

    def limits(self, memory_bytes: int, workers: int | None, jobs: int) -> Limits:
        """See `Engine`: each running step has its part of the memory; at computing they take turns."""
        return Limits.of(memory_bytes // jobs, workers)

    def perform(self, spec: Specification, *, limits: Limits, progress: Progressing) -> dict[str, Any]:
        """See `Engine`."""
        return spec.perform(limits=limits, progress=progress)


@contextmanager
def engine_of(wanted: Engine | str, ray_address: str | None) -> Iterator[Engine]:
    """The engine that is meant, for as long as the block lasts.

    Raises UsageError for a name that means none, Unreachable if there is no cluster.
    """
    if ray_address is not None and wanted != "ray":
        raise UsageError("--ray-address is about a cluster", hint="add --engine ray")
    match wanted:
        case "local":
            yield LocalEngine()
        case "ray":
            from pipeline.batch.ray_engine import RayEngine

            with RayEngine.connect(ray_address) as engine:
                yield engine
        case str():
            raise UsageError(f"{wanted!r} is not an engine", hint="use local or ray")
        case _:
            yield wanted
