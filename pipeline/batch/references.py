"""What steps read from each other, and whether that makes sense.

Works on steps as plain mappings, so that a config with mistakes elsewhere is looked at too: whatever has
not the right form is left out here, for the models of `pipeline.batch.config` report it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pipeline.batch.graph import Graph, show_cycle
from pipeline.batch.problems import JsonPath, Problem, show_path
from pipeline.errors import UsageError
from pipeline.storage.locations import Scheme, parse_delta, parse_output_model, split_scale

MARK = "@"

Kind = Literal["delta", "model"]
Steps = Sequence[Mapping[str, Any]]

MAKES: Mapping[str, Kind] = {"compute": "delta", "apply": "model"}


@dataclass(frozen=True, slots=True)
class Input:
    """A location that a step reads: where in the step it is written, its text, and what it must hold."""

    path: JsonPath
    text: str
    kind: Kind

    @property
    def reference(self) -> str | None:
        """The id of the step whose output is meant, if it is one's."""
        return self.text.removeprefix(MARK) if self.text.startswith(MARK) else None


def inputs_of(step: Mapping[str, Any]) -> Iterator[Input]:
    """Every location that a step reads, as it is written."""
    for key in ("base", "post"):
        if isinstance(text := step.get(key), str):
            yield Input((key,), text, "model")
    deltas = step.get("deltas")
    for number, term in enumerate(deltas if isinstance(deltas, list | tuple) else ()):
        if isinstance(term, str):
            yield Input(("deltas", number), split_scale(term)[0], "delta")
        elif isinstance(term, Mapping) and isinstance(text := term.get("delta"), str):
            yield Input(("deltas", number, "delta"), text, "delta")


def needs_of(step: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids that a step refers to, each once."""
    return tuple(dict.fromkeys(i.reference for i in inputs_of(step) if i.reference is not None))


def reference_problems(steps: Any, root: str) -> list[Problem]:
    """What is wrong between the steps, which the config has under the key `root`.

    Found are ids and outputs that two steps share, references to no step, to the step itself or to a
    step that makes something else, steps that need each other, and locations that another step writes
    but that do not say so.
    """
    if not isinstance(steps, list | tuple):
        return []
    found = _Found.of([step if isinstance(step, Mapping) else {} for step in steps], root)
    return [*found.shared(), *found.inputs(), *found.cycles()]


@dataclass(frozen=True)
class _Found:
    """The steps, with the number of the first one that has an id, or that writes to a place."""

    steps: Steps
    root: str
    ids: Mapping[str, int]
    writers: Mapping[tuple[object, ...], int]

    @classmethod
    def of(cls, steps: Steps, root: str) -> _Found:
        ids: dict[str, int] = {}
        writers: dict[tuple[object, ...], int] = {}
        for number, step in enumerate(steps):
            if isinstance(name := step.get("id"), str):
                ids.setdefault(name, number)
            if (place := _written_place(step)) is not None:
                writers.setdefault(place, number)
        return cls(steps, root, ids, writers)

    def shared(self) -> Iterator[Problem]:
        """Ids and outputs that an earlier step has already."""
        for number, step in enumerate(self.steps):
            name = step.get("id")
            if isinstance(name, str) and self.ids[name] != number:
                yield Problem((self.root, number, "id"), f"is also {self._at(self.ids[name])}'s")
            place = _written_place(step)
            if place is not None and self.writers[place] != number:
                first = self._at(self.writers[place])
                yield Problem((self.root, number, "output"), f"is also {first}'s")

    def inputs(self) -> Iterator[Problem]:
        """Inputs that can't be what they are said to be."""
        for number, step in enumerate(self.steps):
            for item in inputs_of(step):
                if text := self._input_problem(number, item):
                    yield Problem((self.root, number, *item.path), text)

    def _input_problem(self, number: int, item: Input) -> str | None:
        if item.reference is None:
            writer = self.writers.get(_place(item.text, item.kind) or ())
            if writer is None:
                return None
            if writer == number:
                return "is what this step writes itself"
            name = self.steps[writer].get("id")
            return f'is what {self._at(writer)} writes: say so by "{MARK}{name}"'
        target = self.ids.get(item.reference)
        if target is None:
            fitting = [
                name
                for name, at in self.ids.items()
                if at != number and _makes(self.steps[at]) == item.kind
            ]
            close = get_close_matches(item.reference, fitting, 1)
            hint = f': did you mean "{MARK}{close[0]}"?' if close else ""
            return f"no step is called {item.reference!r}{hint}"
        if target == number:
            return "is this step itself"
        makes = _makes(self.steps[target])
        if makes is not None and makes != item.kind:
            return f"{item.reference!r} makes a {makes}, but a {item.kind} is wanted here"
        return None

    def cycles(self) -> Iterator[Problem]:
        """Steps that wait for each other."""
        needs = {
            name: [n for n in needs_of(self.steps[at]) if n in self.ids and n != name]
            for name, at in self.ids.items()
        }
        for cycle in Graph(needs).cycles():
            yield Problem((self.root, self.ids[cycle[0]]), f"needs itself: {show_cycle(cycle)}")

    def _at(self, number: int) -> str:
        return show_path((self.root, number))


def _makes(step: Mapping[str, Any]) -> Kind | None:
    run = step.get("run", "compute")  # a model pair does not say so
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
