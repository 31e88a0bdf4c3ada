"""A step whose inputs are not made yet, planned from what those will be made of.

A delta has the tensors of the models that it is the difference of, and a transferred model those of its
base. So whether they fit, and how much will be moved, can be seen before anything is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pipeline.batch.report import StepResult
from pipeline.batch.specification import SIDES, Specification
from pipeline.quality.report import ROLES

_FORESEEN = (
    "dry_run", "tensors", "elements", "read_bytes", "written_bytes", "download_bytes", "upload_bytes",
    "memory_bytes",
)  # fmt: skip


class StandIns:
    """The specifications of a run's steps, by what they will write."""

    def __init__(self, specs: Mapping[str, Specification], is_missing: Callable[[str], bool]) -> None:
        """is_missing: whether the step with that id has still to write its output."""
        self._makers = {
            spec.arguments["output"]: spec
            for name, spec in specs.items()
            if "output" in spec.arguments and is_missing(name)
        }

    def of(self, spec: Specification) -> Specification | None:
        """The same step, of stand-ins for what is missing; None where there are none."""
        if spec.run not in ("compute", "apply", "evaluate"):
            return None
        arguments = {**spec.arguments, "overwrite": True}
        for side in ROLES if spec.run == "evaluate" else SIDES:
            if side in arguments:
                arguments[side] = self._model(arguments[side])
        if "deltas" in arguments:
            arguments["deltas"] = [self._term(term) for term in arguments["deltas"]]
            if None in arguments["deltas"]:
                return None
        for name in ("key", "require_signature", "old_base", "sign_key", "push_to_hub"):
            arguments.pop(name, None)  # of things that are not there
        return replace(spec, arguments=arguments)

    def corrected(
        self, spec: Specification, report: dict[str, Any], planned: Mapping[str, StepResult]
    ) -> dict[str, Any]:
        """What the report of a stand-in's plan says of the step itself: counts, and sizes at most.

        It will read deltas where the stand-in reads the models that they are of.
        """
        report = {name: value for name, value in report.items() if name in _FORESEEN}
        for term in spec.arguments.get("deltas", ()):
            maker = self._makers.get(term.get("delta", ""))
            result = planned[maker.id].result if maker and maker.id in planned else None
            if result is not None:
                written = result["written_bytes"]
                remote = result["upload_bytes"] > 0
                report["read_bytes"] += written - result["read_bytes"]
                report["download_bytes"] += (written if remote else 0) - result["download_bytes"]
        return report

    def _model(self, text: str) -> str:
        """What has the tensors of the model at `text`: itself, or the base that it will be made of."""
        maker = self._makers.get(text)
        return self._model(maker.arguments["base"]) if maker is not None else text

    def _term(self, term: Mapping[str, Any]) -> dict[str, Any] | None:
        if "delta" not in term:
            return {**term, **{side: self._model(term[side]) for side in SIDES}}
        maker = self._makers.get(term["delta"])
        if maker is None:
            return dict(term)
        if maker.run != "compute":
            return None
        sides = {side: self._model(maker.arguments[side]) for side in SIDES}
        return {**sides, "scale": term["scale"]}
