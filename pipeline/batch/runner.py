"""run_batch: the steps of a config, one after another, each by the public function it names.

A step is a pure function of its specification: it is called with locations and options, and whatever
the steps say to each other passes through what they write.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blake3 import blake3

from pipeline.batch.config import Apply, Compute, Config, Defaults, parse_config, read_file
from pipeline.batch.references import MARK, inputs_of
from pipeline.batch.report import BatchReport, ReportFile, Status, StepResult, default_place
from pipeline.errors import PipelineError, StepFailed
from pipeline.progress import Progressing, silent
from pipeline.settings import Settings
from pipeline.storage.errors import exists
from pipeline.storage.locations import Scheme, parse_delta, parse_output_model
from pipeline.storage.opening import open_parent

INTERRUPTED = 130
A_BUG = 1


def run_batch(
    config: str | Path | Config,
    *,
    only: str | None = None,
    dry_run: bool = False,
    store: str | None = None,
    device: str | None = None,
    memory: str | int | None = None,
    workers: int | None = None,
    overwrite: bool | None = None,
    progress: Progressing = silent,
    on_step: Callable[[StepResult], None] | None = None,
) -> BatchReport:
    """Run the steps of `config`, a file's path or a `Config`, and write its report.

    A step that fails stops those that need it; the others go on. So look at the report's `ok`.
    only: the id of the one step to run; what it needs must be there already. dry_run: check each step
    from headers, write nothing, not even the report. store, device, memory, workers, overwrite: in
    place of the config's defaults. on_step: called with the result of each step as it ends.
    Raises ConfigError for a config with problems, UsageError for options that mean nothing, and other
    errors of `pipeline.errors` if the report can't be written. What is none of them, an interrupt for
    one, passes through after the report is written.
    """
    source, data, config = _read(config)
    options = config.defaults.override(
        store=store, device=device, memory=memory, workers=workers, overwrite=overwrite
    )
    graph = config.graph
    order = graph.select(only)
    settings = Settings.load(store=options.store)
    file = None if dry_run else ReportFile.open(config.report or default_place(source), settings)
    run = _Run(config.by_id, options, settings, dry_run, only is not None, progress)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()

    def report(results: list[StepResult]) -> BatchReport:
        digest, seconds = blake3(data).hexdigest(), round(time.monotonic() - clock, 3)
        return BatchReport(source, digest, started, seconds, dry_run, results)

    results: list[StepResult] = []
    running: str | None = None
    try:
        for name in order:
            running = name
            results.append(run.step(name, graph.needs[name]))
            if on_step is not None:
                on_step(results[-1])
    except BaseException as error:
        rest = [run.stopped(name, error, begun=name == running) for name in order[len(results) :]]
        if file is not None:
            with suppress(PipelineError):  # the first error is the one to tell of
                file.write(report([*results, *rest]))
        raise
    finished = report(results)
    if file is not None:
        file.write(finished)
    return finished


def _read(config: str | Path | Config) -> tuple[str | None, bytes, Config]:
    """The config with its path, if it has one, and the bytes that it is known by."""
    if isinstance(config, Config):
        return None, config.model_dump_json(by_alias=True).encode(), config
    data = read_file(config)
    return str(config), data, parse_config(data, where=str(config))


@dataclass(frozen=True)
class _Run:
    """A run of steps.

    alone: whether what a step needs is taken to be there. unfinished: the steps that failed or were
    skipped, and which of the two.
    """

    steps: Mapping[str, Compute | Apply]
    options: Defaults
    settings: Settings
    dry_run: bool
    alone: bool
    progress: Progressing
    unfinished: dict[str, str] = field(default_factory=dict)

    def step(self, name: str, needs: Sequence[str]) -> StepResult:
        """Run one step, whatever comes of it. Only what is no `Exception` passes through."""
        step = self.steps[name]
        clock = time.monotonic()
        for need in needs:
            if how := self.unfinished.get(need):
                self.unfinished[name] = "was skipped"
                reason = f"needs {need!r}, which {how}"
                return StepResult(name, step.run, "skipped", 0.0, reason, StepFailed.exit_code)
        try:
            waits_for = self._missing(needs) if self.dry_run and not self.alone else ()
            if waits_for:
                self._look_at(step)
            result = None if waits_for else self._operate(step)
        except Exception as error:
            self.unfinished[name] = "failed"
            text, code = _explain(error)
            return StepResult(name, step.run, "failed", _since(clock), text, code)
        status: Status = "planned" if self.dry_run else "done"
        return StepResult(name, step.run, status, _since(clock), result=result, waits_for=waits_for)

    def stopped(self, name: str, error: BaseException, *, begun: bool) -> StepResult:
        """The result of a step that did not come to its end because the run was stopped."""
        how = "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else A_BUG
        status: Status = "failed" if begun else "skipped"
        text = how if begun else f"the run was stopped before it: {how}"
        return StepResult(name, self.steps[name].run, status, 0.0, text, code)

    def _operate(self, step: Compute | Apply) -> dict[str, Any]:
        """Call the operation that the step names; its report."""
        options: dict[str, Any] = {
            "store": self.options.store,
            "dtype": step.dtype or self.options.dtype,
            "device": self.options.device,
            "memory": self.options.memory,
            "workers": self.options.workers,
        }
        options = {name: value for name, value in options.items() if value is not None}
        options.update(overwrite=self.options.overwrite, dry_run=self.dry_run, progress=self.progress)
        if isinstance(step, Compute):
            from pipeline.operations.compute import compute

            base, post = self._locate(step.base), self._locate(step.post)
            return asdict(compute(base, post, step.output, codec=step.codec, **options))
        from pipeline.operations.apply import apply

        if step.shard_size is not None:
            options["shard_size"] = step.shard_size
        deltas = [
            self._locate(term.delta) if term.scale is None else (self._locate(term.delta), term.scale)
            for term in step.deltas
        ]
        base = self._locate(step.base)
        return asdict(apply(base, deltas, step.output, scale=step.scale, **options))

    def _locate(self, text: str) -> str:
        """The location that `text` means: itself, or the output of the step that it refers to."""
        if not text.startswith(MARK):
            return text
        step = self.steps[text.removeprefix(MARK)]
        if step.makes == "model":
            location = parse_output_model(step.output)
            if location.scheme is Scheme.LOCAL and not location.path.startswith(("/", "./", "../")):
                return f"./{location.path}"  # else read as an id of the Hub
        return step.output

    def _missing(self, needs: Sequence[str]) -> tuple[str, ...]:
        """Those of the steps `needs` whose outputs are not there yet."""
        return tuple(need for need in needs if not self._is_there(self.steps[need]))

    def _is_there(self, step: Compute | Apply) -> bool:
        """Whether anything stands under the step's output."""
        if step.makes == "delta":
            store, name = open_parent(parse_delta(step.output), self.settings)
            return store.stat(name) is not None
        store, name = open_parent(parse_output_model(step.output), self.settings)
        return store.has_folder(name)

    def _look_at(self, step: Compute | Apply) -> None:
        """Check what can be of a step that waits for others: its other inputs, and its output."""
        from pipeline.checkpoints.checkpoint import open_checkpoint
        from pipeline.deltas.delta import open_delta

        for item in inputs_of(step.model_dump()):
            if item.reference is not None:
                continue
            if item.kind == "model":
                open_checkpoint(item.text, settings=self.settings, headers_only=True).close()
            else:
                open_delta(item.text, settings=self.settings).close()
        if not self.options.overwrite and self._is_there(step):
            parse = parse_delta if step.makes == "delta" else parse_output_model
            raise exists(str(parse(step.output)))


def _since(clock: float) -> float:
    return round(time.monotonic() - clock, 3)


def _explain(error: Exception) -> tuple[str, int]:
    """What a report says of an error, and the exit code that goes with it."""
    if isinstance(error, PipelineError):
        return str(error), error.exit_code
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"a bug in this tool: {type(error).__name__}: {error}{at}", A_BUG
