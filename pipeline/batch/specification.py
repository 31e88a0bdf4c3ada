"""A step as a call of an operation: plain values, which any process can be given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.batch.config import Defaults
from pipeline.batch.evidence_steps import Analyze, Evaluate, Gate, Page, Publish, Sweep
from pipeline.batch.fusing import fusing
from pipeline.batch.references import FOLDERS, MARK
from pipeline.batch.steps import AnyStep, Apply, Combine, Compute, Verify, given
from pipeline.batch.terms import Term
from pipeline.storage.locations import Scheme, parse_output_model, split_scale

_SHARED = ("store", "device", "hub_cache", "digest_cache", "dequantize", "tier", "sign_key")
SIDES = ("base", "post")  # of a difference
EVIDENCE = ("evaluate", "gate", "publish", "analyze", "page", "sweep")
_UNTOLD = {  # what an operation has no option for
    "sweep": ("tier", "sign_key"),
    "analyze": ("device", "digest_cache", "tier", "sign_key"),
    "page": ("device", "hub_cache", "digest_cache", "dequantize", "tier", "sign_key"),
}
_HUB = ("push_to_hub", "private", "revision")


@dataclass(frozen=True, slots=True)
class Specification:
    """What a step does: the operation `run`, called with `arguments`, which are JSON values.

    A pure function of them: it reads and writes locations, and nothing else.
    """

    id: str
    run: str
    arguments: Mapping[str, Any]

    def perform(self, **context: Any) -> dict[str, Any]:
        """Do it; returns the operation's report. context: what depends on who does it, as progress."""
        if self.run in EVIDENCE:
            from pipeline.batch.evidence import perform

            return perform(self.run, self._call(), **context)
        return asdict(self._operation()(**self._call(), **context))

    @property
    def terms(self) -> list[tuple[Any, float]]:
        """The deltas with their scales, as the operations take them."""
        return [_as_term(each) for each in self.arguments.get("deltas", ())]

    def _call(self) -> dict[str, Any]:
        """The operation's arguments."""
        deltas = {"deltas": self.terms} if "deltas" in self.arguments else {}
        return {**self.arguments, **deltas}

    def _operation(self) -> Callable[..., Any]:
        # Imported here, so that a config can be read and checked without what computes.
        match self.run:
            case "compute":
                from pipeline.operations.compute import compute

                return compute
            case "apply":
                from pipeline.operations.apply import apply

                return apply
            case "combine":
                from pipeline.operations.combine import combine

                return combine
        from pipeline.operations.verify import verify

        return verify


def specify(step: AnyStep, steps: Mapping[str, AnyStep], options: Defaults) -> Specification:
    """The call of `step`; `steps` are those that it may refer to."""

    def locate(text: str) -> str:
        return output_of(steps[text.removeprefix(MARK)]) if text.startswith(MARK) else text

    shared = {name: getattr(options, name) for name in _SHARED}
    arguments: dict[str, Any] = {name: value for name, value in shared.items() if value is not None}
    if not isinstance(step, Verify):
        arguments["overwrite"] = options.overwrite if step.overwrite is None else step.overwrite
    if isinstance(step, Compute | Apply | Combine):
        arguments |= given(step, "sign_key", "tier")
    if isinstance(step, Compute | Apply):
        arguments |= given(step, *_HUB)
        if dtype := step.dtype or options.dtype:
            arguments["dtype"] = dtype
    match step:
        case Compute():
            arguments |= {"base": locate(step.base), "post": locate(step.post)}
            arguments |= {"output": step.output, "codec": step.codec}
        case Apply():
            deltas = [_locate_term(term, step.scale, locate) for term in step.deltas]
            arguments |= {"base": locate(step.base), "deltas": deltas, "output": step.output}
            arguments |= given(step, "shard_size", "key", "require_signature") | fusing(step)
            if step.old_base is not None:
                arguments["old_base"] = locate(step.old_base)
        case Combine():
            deltas = [_locate_term(term, 1.0, locate) for term in step.deltas]
            arguments |= {"deltas": deltas, "output": step.output, "codec": step.codec}
            _leave_out(arguments, "device", "hub_cache", "digest_cache", "dequantize")
        case Verify():
            arguments["location"] = locate(step.target)
            arguments |= given(step, "key", "require_signature")
            arguments |= {side: locate(text) for side, text in given(step, "base", "post").items()}
            _leave_out(arguments, "device", "digest_cache", "tier", "sign_key")
        case Evaluate():
            arguments |= {**_measuring(step, locate), "output": step.output}
            _leave_out(arguments, "tier", "sign_key")
        case Sweep() | Analyze() | Page():
            arguments |= {**_showing(step, locate), "output": step.output}
            arguments = {name: arguments[name] for name in arguments if name not in _UNTOLD[step.run]}
        case Gate():
            arguments = {"overwrite": arguments["overwrite"], "report": locate(step.of)}
            arguments |= {"require": step.require, "output": step.output}
        case Publish():
            arguments |= given(step, "tier")
            arguments |= {"source": locate(step.source), "output": output_of(step)}
            arguments |= {"gates": [locate(gate) for gate in step.gates]}
            arguments["require"] = _required(step.gates, steps)
            _leave_out(arguments, "device", "hub_cache", "digest_cache", "dequantize", "sign_key")
    return Specification(step.id, step.run, arguments)


def _measuring(step: Evaluate | Sweep, locate: Callable[[str], str]) -> dict[str, Any]:
    """What models are measured, on what and how."""
    roles = ("model", "reference", "base", "donor", "donor_base")
    named = given(step, *(role for role in roles if hasattr(step, role)))
    found: dict[str, Any] = {role: locate(text) for role, text in named.items()}
    found |= given(step, "metrics", "lm_eval", "lm_eval_tasks", "device", "dtype", "batch_size", "cache")
    found["data"] = step.data
    return found if step.seed is None else {**found, "seed": step.seed}


def _showing(step: Sweep | Analyze | Page, locate: Callable[[str], str]) -> dict[str, Any]:
    """What is shown, and how."""
    match step:
        case Sweep():
            deltas = [_locate_term(term, 1.0, locate) for term in step.deltas]
            measured = {**_measuring(step, locate), **given(step, "scales", "plots")}
            making = fusing(step.making)
            return {**measured, "deltas": deltas, **({"making": making} if making else {})}
        case Page():
            return {"reports": [locate(text) for text in step.reports], **given(step, "title", "key")}
    scaled = [split_scale(text) for text in step.evaluation]
    found: dict[str, Any] = given(step, "plots")
    found["deltas"] = [{"delta": locate(text), "scale": 1.0} for text in step.deltas]
    found["evaluation"] = [[locate(text), float(scale or 1)] for text, scale in scaled]
    found |= {side: locate(text) for side, text in given(step, "base").items()}
    return found if step.sketch is None else {**found, "sketch": step.sketch}


def _required(gates: Sequence[str], steps: Mapping[str, AnyStep]) -> list[str]:
    """What the gates of this config require: an older verdict may be by other conditions."""
    named = (steps[text.removeprefix(MARK)] for text in gates if text.startswith(MARK))
    return [condition for gate in named if isinstance(gate, Gate) for condition in gate.require]


def output_of(step: AnyStep) -> str:
    """Where a step's output is read from."""
    assert step.output is not None, "only steps that write are referred to"
    if step.makes in FOLDERS:
        location = parse_output_model(step.output)
        if location.scheme is Scheme.LOCAL and not location.path.startswith(("/", "./", "../")):
            return f"./{location.path}"  # else read as an id of the Hub
    return step.output


def _locate_term(term: Any, scale: float, locate: Callable[[str], str]) -> dict[str, Any]:
    factor = scale if term.scale is None else term.scale
    if isinstance(term, Term):
        return {"delta": locate(term.delta), "scale": factor}
    return {"base": locate(term.base), "post": locate(term.post), "scale": factor}


def _as_term(term: Mapping[str, Any]) -> tuple[Any, float]:
    """A term as the operations take it."""
    if "delta" in term:
        return term["delta"], term["scale"]
    from pipeline.operations.arguments import Difference

    return Difference(term["base"], term["post"]), term["scale"]


def _leave_out(arguments: dict[str, Any], *names: str) -> None:
    """Take out what an operation has no option for."""
    for name in names:
        arguments.pop(name, None)
