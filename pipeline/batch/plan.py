"""A step of a dry run: what would be done and why, and what would go wrong, from headers alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.batch.evidence import foresee_publish, raise_refusal
from pipeline.batch.faults import explain
from pipeline.batch.known import Known
from pipeline.batch.outlook import examine, settings_for
from pipeline.batch.references import FOLDERS, inputs_of, needs_of
from pipeline.batch.report import StepResult
from pipeline.batch.specification import Specification
from pipeline.batch.stand_ins import StandIns
from pipeline.batch.step import since
from pipeline.batch.steps import AnyStep
from pipeline.checkpoints.checkpoint import open_checkpoint
from pipeline.deltas.delta import open_delta
from pipeline.errors import IsAnAdapter, OutputExists
from pipeline.operations.freshness import Freshness
from pipeline.operations.gate import Kept
from pipeline.operations.outputs.provenance import PROVENANCE
from pipeline.settings import Settings
from pipeline.storage.errors import exists
from pipeline.storage.locations import parse_delta, parse_output_model
from pipeline.storage.opening import open_parent


@dataclass(frozen=True)
class Planner:
    """What steps are planned with, one after another, each after those it needs.

    alone: whether what a step needs is taken to be there. planned: the steps that would write anew.
    """

    steps: Mapping[str, AnyStep]
    specs: Mapping[str, Specification]
    known: Known
    settings: Settings
    alone: bool
    planned: dict[str, StepResult] = field(default_factory=dict)

    def plan(self, spec: Specification) -> StepResult:
        """What would be done with a step; failed if that can be seen not to work."""
        clock = time.monotonic()
        try:
            result = self._plan(spec)
        except Exception as error:
            text, code = explain(error)
            return StepResult(spec.id, spec.run, "failed", since(clock), error=text, exit_code=code)
        if result.status == "planned":
            self.planned[spec.id] = result
        return replace(result, seconds=since(clock))

    def _plan(self, spec: Specification) -> StepResult:
        step = self.steps[spec.id]
        waits_for = () if self.alone else self._waits_for(needs_of(step.model_dump()))
        if waits_for:
            self._look_at(step)
            found = self._foresee(spec)
            return StepResult(spec.id, spec.run, "planned", result=found, waits_for=waits_for)
        outlook = examine(spec, self.known)
        if outlook.state == "fresh":
            return StepResult(spec.id, spec.run, "fresh")
        if outlook.state == "stale" and not spec.arguments.get("overwrite"):
            raise OutputExists(
                f"{outlook.reason}, and is in the way",
                where=str(spec.arguments["output"]),
                hint='say "overwrite": true in the config, or name another output',
            )
        return StepResult(
            spec.id, spec.run, "planned", reason=_reason(outlook), result=self._report(spec)
        )

    def _report(self, spec: Specification) -> dict[str, Any] | None:
        """What the operation says that it would do."""
        if spec.run == "verify":
            return None
        arguments = {**spec.arguments, "overwrite": True}  # what is in the way was looked at
        found = Specification(spec.id, spec.run, arguments).perform(dry_run=True)
        raise_refusal(found)
        return found

    def _foresee(self, spec: Specification) -> dict[str, Any] | None:
        """What a step that waits for others will do, as far as can be seen."""
        if spec.run == "publish":
            source = _only_reference(self.steps[spec.id], "source")
            made = self.planned.get(source or "")
            return foresee_publish(spec.arguments, made.result if made is not None else None)
        stand_ins = StandIns(self.specs, lambda name: name in self.planned)
        stand_in = stand_ins.of(spec)
        if stand_in is None:
            return None
        return stand_ins.corrected(spec, stand_in.perform(dry_run=True), self.planned)

    def _waits_for(self, needs: Sequence[str]) -> tuple[str, ...]:
        """Those of the steps `needs` whose outputs are not there yet, or will be others."""
        return tuple(
            need for need in needs if need in self.planned or not self._is_there(self.steps[need])
        )

    def _is_there(self, step: AnyStep) -> bool:
        """Whether anything stands under the step's output."""
        if step.output is None:
            return False
        is_delta = step.makes == "delta"
        place = parse_delta(step.output) if is_delta else parse_output_model(step.output)
        store, name = open_parent(place, self.settings)
        return store.has_folder(name) if step.makes in FOLDERS else store.stat(name) is not None

    def _look_at(self, step: AnyStep) -> None:
        """Check what can be of a step that waits for others: its other inputs, and its output."""
        settings = settings_for(self.specs[step.id], self.settings)
        for item in inputs_of(step.model_dump()):
            if item.reference is not None:
                continue
            if item.kind == "model":
                with suppress(IsAnAdapter):  # its base, which is named beside it, is looked at, too
                    open_checkpoint(item.text, settings=settings, headers_only=True).close()
            elif item.kind == "delta":
                open_delta(item.text, settings=self.settings).close()
            elif item.kind is not None:
                Kept.at(item.text, self.settings).read()
        if step.makes == "model" and not self.specs[step.id].arguments.get("overwrite"):
            target = parse_output_model(str(step.output))
            store, name = open_parent(target, self.settings)
            if store.has_folder(name) and store.stat(f"{name}/{PROVENANCE}") is None:
                raise exists(str(target))  # it can't become up to date


def _only_reference(step: AnyStep, field: str) -> str | None:
    """The step that a field of `step` refers to, if it does."""
    found = (item for item in inputs_of(step.model_dump()) if item.path == (field,))
    return next((item.reference for item in found), None)


def _reason(outlook: Freshness) -> str | None:
    match outlook.state:
        case "missing":
            return "nothing is there yet"
        case "stale":
            return f"what is there {outlook.reason}"
    return f"{', '.join(outlook.unread)} must be read to know whether anything changed"
