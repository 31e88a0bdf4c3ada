"""One step of a run: left alone if its output is what it would write, else performed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pipeline.batch.engines import Engine
from pipeline.batch.evidence import refusal_of
from pipeline.batch.faults import A_BUG, explain
from pipeline.batch.known import Known
from pipeline.batch.outlook import (
    check_key,
    examine,
    fingerprints_of_inputs,
    identities,
    identity_of,
    models_of,
    step_key,
)
from pipeline.batch.report import INTERRUPTED, Status, StepResult
from pipeline.batch.specification import Specification
from pipeline.engine.schedule import Limits
from pipeline.errors import NotACheckpoint, NotFound, OutputExists, PipelineError, Refused
from pipeline.operations.fingerprint import fingerprint
from pipeline.operations.freshness import Freshness
from pipeline.progress import Progressing
from pipeline.settings import Settings
from pipeline.tensors.fingerprint import Digest

OTHERS_S = 120.0  # that another run which publishes the same is given to end
LOOK_S = 1.0


@dataclass(frozen=True)
class StepRunner:
    """What all steps of a run are performed with. force: perform those that are fresh, too."""

    known: Known
    settings: Settings
    engine: Engine
    limits: Limits
    progress: Progressing
    force: bool

    def run(self, spec: Specification) -> StepResult:
        """Run one step, whatever comes of it. Only what is no `Exception` passes through."""
        clock = time.monotonic()
        try:
            outlook = Freshness("missing") if self.force else self._examine(spec)
            if outlook.state == "fresh":
                found = {"fingerprint": outlook.fingerprint} if outlook.fingerprint else None
                return StepResult(spec.id, spec.run, "fresh", since(clock), result=found)
            before = identities(spec, self.settings)
            try:
                result = self.engine.perform(spec, limits=self.limits, progress=self.progress)
            except OutputExists:
                if self._was_overtaken(spec):
                    return StepResult(spec.id, spec.run, "fresh", since(clock))
                raise
            if (refusal := refusal_of(result)) is not None:
                code = Refused.exit_code
                return StepResult(
                    spec.id,
                    spec.run,
                    "failed",
                    since(clock),
                    error=refusal,
                    exit_code=code,
                    result=result,
                )
            self._learn(spec, before, result)
            key = step_key(spec, result, self.settings)
        except Exception as error:
            text, code = explain(error)
            return StepResult(spec.id, spec.run, "failed", since(clock), error=text, exit_code=code)
        reason = f"what was there {outlook.reason}" if outlook.reason else None
        return StepResult(spec.id, spec.run, "done", since(clock), reason=reason, key=key, result=result)

    def _examine(self, spec: Specification) -> Freshness:
        """How the step's output stands, its inputs being read if nothing else tells."""
        found = examine(spec, self.known)
        if found.state != "unknown":
            return found
        bases = dict(models_of(spec))
        for text, identity in identities(spec, self.settings).items():
            if not self.known.has(identity):
                read = fingerprint(
                    text,
                    base=bases[text],
                    store=spec.arguments.get("store"),
                    hub_cache=spec.arguments.get("hub_cache"),
                    digest_cache=spec.arguments.get("digest_cache"),
                    dequantize=bool(spec.arguments.get("dequantize")),
                    limits=self.limits,
                    progress=self.progress,
                )
                self.known.learn(identity, read)
        return examine(spec, self.known)

    def _was_overtaken(self, spec: Specification) -> bool:
        """Whether another run has written just what this one would, or does so before long."""
        deadline = time.monotonic() + OTHERS_S
        while True:
            found = self._examine(spec)
            if found.state == "fresh" or not found.is_underway or time.monotonic() > deadline:
                return found.state == "fresh"
            time.sleep(LOOK_S)

    def _learn(self, spec: Specification, before: dict[str, Digest], result: dict[str, Any]) -> None:
        """Note what the operation has found out about what it read, and what it wrote."""
        if spec.run == "verify":
            self.known.note_passed(check_key(spec))
            return
        after = identities(spec, self.settings)
        for text, digest in fingerprints_of_inputs(spec, result):
            if before[text] == after[text]:  # the same all the time
                self.known.learn(after[text], digest)
        is_model = spec.run == "apply" or (spec.run == "publish" and result["kind"] == "model")
        if is_model and result.get("fingerprint"):
            try:
                made = identity_of(spec.arguments["output"], self.settings)
            except (NotACheckpoint, NotFound):  # somebody has taken it away already
                return
            self.known.learn(made, Digest.parse(result["fingerprint"]))


def skipped(spec: Specification, other: str, how: str, *, needs: bool = True) -> StepResult:
    """The result of a step that was not run because of another one, which it needs or not."""
    reason = f"needs {other!r}, which {how}" if needs else f"the run ended when {other!r} {how}"
    return StepResult(spec.id, spec.run, "skipped", error=reason, exit_code=PipelineError.exit_code)


def stopped(spec: Specification, error: BaseException, *, begun: bool) -> StepResult:
    """The result of a step that did not come to its end because the run was stopped."""
    is_interrupt = isinstance(error, KeyboardInterrupt)
    how = "interrupted" if is_interrupt else type(error).__name__
    text = how if begun else f"the run was stopped before it: {how}"
    code = INTERRUPTED if is_interrupt else A_BUG
    status: Status = "failed" if begun else "skipped"
    return StepResult(spec.id, spec.run, status, error=text, exit_code=code)


def since(clock: float) -> float:
    """Seconds since `clock`, a time of the monotonic clock."""
    return round(time.monotonic() - clock, 3)
