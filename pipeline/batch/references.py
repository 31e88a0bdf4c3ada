"""What steps read from each other, and whether that makes sense.

Works on steps as plain mappings, so that a config with mistakes elsewhere is looked at too: whatever has
not the right form is left out here, for the models of `pipeline.batch.config` report it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pipeline.batch.graph import Graph, show_cycle
from pipeline.batch.problems import JsonPath, Problem, show_path
from pipeline.checkpoints.files import SAFETENSORS
from pipeline.errors import UsageError
from pipeline.storage.locations import Scheme, parse_delta, parse_output_model, split_scale

MARK = "@"

Kind = Literal["delta", "model", "evaluation", "verdict", "analysis", "page", "sweep"]

# What publish makes depends on what it publishes, see `published_kind`; verify makes nothing.
MAKES: Mapping[str, Kind] = {
    "compute": "delta",
    "apply": "model",
    "combine": "delta",
    "evaluate": "evaluation",
    "gate": "verdict",
    "analyze": "analysis",
    "page": "page",
    "sweep": "sweep",
}
Places = Mapping[JsonPath, JsonPath]
# Where a step may name one.
MODELS = ("base", "post", "old_base", "model", "reference", "donor_base", "donor")
EITHER = ("target", "source")  # a delta or a model
FOLDERS = ("model", "analysis", "page", "sweep")  # what is no single file
_PAGED = ("delta", "model", "evaluation", "verdict", "analysis")  # what a page shows


@dataclass(frozen=True, slots=True)
class Placed:
    """A step as a mapping, and where in the config it comes from.

    at: where places of the step are written, from `path` on, if it is not written out itself.
    """

    path: JsonPath
    step: Mapping[str, Any]
    at: Places = field(default_factory=dict)

    def locate(self, *place: str | int) -> JsonPath:
        """Where in the config a place of the step is written."""
        for length in range(len(place), 0, -1):
            if (found := self.at.get(place[:length])) is not None:
                return (*self.path, *found, *place[length:])
        return (*self.path, *place)


@dataclass(frozen=True, slots=True)
class Input:
    """A location that a step reads: where in the step it is written, its text, and what it must hold.

    kind: None if a delta will do as well as a model. fuses: whether a delta may be one that is never
    written. shows: whether whatever a page can show will do.
    """

    path: JsonPath
    text: str
    kind: Kind | None
    fuses: bool = False
    shows: bool = False

    @property
    def reference(self) -> str | None:
        """The id of the step whose output is meant, if it is one's."""
        return self.text.removeprefix(MARK) if self.text.startswith(MARK) else None


def inputs_of(step: Mapping[str, Any]) -> Iterator[Input]:
    """Every location that a step reads, as it is written."""
    yield from _models_of(step, ())
    for key in EITHER:
        if isinstance(text := step.get(key), str):
            yield Input((key,), text, None)
    if isinstance(text := step.get("of"), str):
        yield Input(("of",), text, "evaluation")
    for number, gate in _texts(step, "gates"):
        yield Input(("gates", number), gate, "verdict")
    for number, report in _texts(step, "reports"):
        yield Input(("reports", number), report, None, shows=True)
    for number, report in _texts(step, "evaluation"):
        yield Input(("evaluation", number), split_scale(report)[0], "evaluation")
    fuses = step.get("run") == "apply"
    deltas = step.get("deltas")
    for number, term in enumerate(deltas if isinstance(deltas, list | tuple) else ()):
        if isinstance(term, str):
            yield Input(("deltas", number), split_scale(term)[0], "delta", fuses)
        elif isinstance(term, Mapping):
            if isinstance(text := term.get("delta"), str):
                yield Input(("deltas", number), text, "delta", fuses)
            yield from _models_of(term, ("deltas", number))


def _texts(step: Mapping[str, Any], key: str) -> Iterator[tuple[int, str]]:
    """The texts of a list, each with its number."""
    found = step.get(key)
    for number, text in enumerate(found if isinstance(found, list | tuple) else ()):
        if isinstance(text, str):
            yield number, text


def _models_of(holder: Mapping[str, Any], path: JsonPath) -> Iterator[Input]:
    for key in MODELS:
        if isinstance(text := holder.get(key), str):
            yield Input((*path, key), text, "model")


def needs_of(step: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids that a step refers to, each once."""
    return tuple(dict.fromkeys(i.reference for i in inputs_of(step) if i.reference is not None))


def reference_problems(
    steps: Sequence[Placed], names: Mapping[str, Kind], unknown: Sequence[str] = ()
) -> list[Problem]:
    """What is wrong between the steps. names: those that the config gives to models and deltas.

    unknown: how ids of steps begin that there may be, too.

    Found are ids and outputs that two steps share, references to no step and no name, to the step itself
    or to what is something else, steps that need each other, deltas that nobody writes nor uses, and
    locations that another step writes but that do not say so.
    """
    found = _Found.of(steps, names, unknown)
    return [*found.shared(), *found.inputs(), *found.unused(), *found.cycles()]


@dataclass(frozen=True)
class _Found:
    """The steps, with the number of the first one that has an id, or that writes to a place."""

    steps: Sequence[Placed]
    names: Mapping[str, Kind]
    ids: Mapping[str, int]
    writers: Mapping[tuple[object, ...], int]
    unknown: tuple[str, ...]

    @classmethod
    def of(cls, steps: Sequence[Placed], names: Mapping[str, Kind], unknown: Sequence[str]) -> _Found:
        ids: dict[str, int] = {}
        writers: dict[tuple[object, ...], int] = {}
        for number, placed in enumerate(steps):
            if isinstance(name := placed.step.get("id"), str):
                ids.setdefault(name, number)
            if (place := _written_place(placed.step)) is not None:
                writers.setdefault(place, number)
        return cls(steps, names, ids, writers, tuple(unknown))

    def shared(self) -> Iterator[Problem]:
        """Ids and outputs that an earlier step has already."""
        for number, placed in enumerate(self.steps):
            name = placed.step.get("id")
            if isinstance(name, str) and name in self.names:
                yield Problem(placed.locate("id"), f"is also the name of a {self.names[name]}")
            elif isinstance(name, str) and self.ids[name] != number:
                yield Problem(placed.locate("id"), f"is also {self._at(self.ids[name])}'s")
            place = _written_place(placed.step)
            if place is not None and self.writers[place] != number:
                yield Problem(placed.locate("output"), f"is also {self._at(self.writers[place])}'s")

    def inputs(self) -> Iterator[Problem]:
        """Inputs that can't be what they are said to be."""
        for number, placed in enumerate(self.steps):
            for item in inputs_of(placed.step):
                if text := self._input_problem(number, item):
                    yield Problem(placed.locate(*item.path), text)

    def unused(self) -> Iterator[Problem]:
        """Deltas without an output that no step takes."""
        taken = {item.reference for placed in self.steps for item in inputs_of(placed.step)}
        for placed in self.steps:
            if is_fused(placed.step) and placed.step.get("id") not in taken:
                text = "is missing, and no step takes the delta on the way"
                yield Problem(placed.locate("output"), text)

    def _input_problem(self, number: int, item: Input) -> str | None:
        if item.reference is None:
            return self._location_problem(number, item)
        name = item.reference
        makes = self.names.get(name)
        if makes is None:
            target = self.ids.get(name)
            if target is None and name.startswith(self.unknown):
                return None
            if target is None:
                return f"no step is called {name!r}{self._nearest(number, item)}"
            if target == number:
                return "is this step itself"
            step = self.steps[target].step
            if step.get("run") == "verify":
                return f"{name!r} makes nothing"
            if is_fused(step) and not item.fuses:
                return f"{name!r} writes no delta: give it an output"
            makes = _makes(step)
            output = str(step.get("output")).partition("?")[0]
            if item.kind is None and makes == "delta" and not output.endswith(SAFETENSORS):
                return f"{name!r} writes a delta that no name ending tells of: call it *{SAFETENSORS}"
            if item.shows:
                return None if makes in _PAGED else f"{name!r} makes {_a(makes)}, which no page shows"
            if item.kind is None and makes not in ("delta", "model"):
                return f"{name!r} makes {_a(makes)}, but a delta or a model is wanted here"
            if item.path == ("source",) and makes != _makes(self.steps[number].step):
                return (
                    f"{name!r} makes a {makes}: a delta's output ends with {SAFETENSORS}, no other does"
                )
        if makes is not None and item.kind not in (None, makes):
            verb = "is" if name in self.names else "makes"
            return f"{name!r} {verb} {_a(makes)}, but {_a(item.kind)} is wanted here"
        return None

    def _location_problem(self, number: int, item: Input) -> str | None:
        kinds: Sequence[Kind] = (item.kind,) if item.kind else ("delta", "model")
        for kind in kinds:
            writer = self.writers.get(_place(item.text, kind) or ())
            if writer == number:
                return "is what this step writes itself"
            if writer is not None:
                name = self.steps[writer].step.get("id")
                return f'is what {self._at(writer)} writes: say so by "{MARK}{name}"'
        return None

    def _nearest(self, number: int, item: Input) -> str:
        """Which name may have been meant, as the end of a message."""
        fitting = [name for name, kind in self.names.items() if item.kind in (None, kind)]
        for name, at in self.ids.items():
            makes = _makes(self.steps[at].step)
            if at != number and makes and item.kind in (None, makes):
                fitting.append(name)
        close = get_close_matches(item.reference or "", fitting, 1)
        return f': did you mean "{MARK}{close[0]}"?' if close else ""

    def cycles(self) -> Iterator[Problem]:
        """Steps that wait for each other."""
        needs = {
            name: [n for n in needs_of(self.steps[at].step) if n in self.ids and n != name]
            for name, at in self.ids.items()
        }
        for cycle in Graph(needs).cycles():
            path = self.steps[self.ids[cycle[0]]].path
            yield Problem(path, f"needs itself: {show_cycle(cycle)}")

    def _at(self, number: int) -> str:
        return show_path(self.steps[number].path)


def published_kind(output: str) -> Kind:
    """What a publish step makes: a delta if its output is called as one, else a model."""
    return "delta" if output.partition("?")[0].endswith(SAFETENSORS) else "model"


def is_fused(step: Mapping[str, Any]) -> bool:
    """Whether a step computes a delta that is only taken on the way into sums."""
    return step.get("run", "compute") == "compute" and step.get("output") is None


def _a(kind: Kind | None) -> str:
    return f"an {kind}" if kind in ("evaluation", "analysis") else f"a {kind}"


def _makes(step: Mapping[str, Any]) -> Kind | None:
    run = step.get("run", "compute")  # a model pair does not say so
    if run == "publish":
        return published_kind(str(step.get("output")))
    return MAKES.get(run) if isinstance(run, str) else None


def _written_place(step: Mapping[str, Any]) -> tuple[object, ...] | None:
    kind, output = _makes(step), step.get("output")
    return _place(output, kind) if kind and isinstance(output, str) else None


def _place(text: str, kind: Kind) -> tuple[object, ...] | None:
    """What tells whether two texts mean the same place; None for what a step can't have written."""
    try:
        location = parse_delta(text) if kind == "delta" else parse_output_model(text)
        if location.scheme is Scheme.LOCAL:
            return (Scheme.LOCAL, Path(location.path).resolve())
    except (UsageError, ValueError, OSError, RuntimeError):  # the last: links that go in a circle
        return None
    return (location.scheme, location.account_url, location.container, location.path)
