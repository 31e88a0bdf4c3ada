"""What can be seen to be wrong between the steps of a config that has other mistakes, too.

All mistakes are to be listed at once. So what is right of such a config is looked at, and what is not is
left out: the models of `pipeline.batch.config` report it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.batch.expand import Chain, Matrix, version_places
from pipeline.batch.problems import Problem
from pipeline.batch.references import MARK, Kind, Placed, reference_problems

_SHORT: Mapping[str, type[Matrix | Chain]] = {"matrix": Matrix, "chain": Chain}


def name_problems(models: Mapping[str, Any], deltas: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with names: two of one kind, or one that stands for another."""
    found = [
        Problem(("deltas", name), "is also the name of a model") for name in deltas if name in models
    ]
    for kind, named in (("models", models), ("deltas", deltas)):
        for name, text in named.items():
            if isinstance(text, str) and text.startswith(MARK):
                found.append(Problem((kind, name), "is a reference, but should be a location"))
    return found


def problems_of_raw(content: Any) -> list[Problem]:
    """The problems of a JSON value that is meant to be a config."""
    if not isinstance(content, dict):
        return []
    models, deltas = (_mapping(content.get(key)) for key in ("models", "deltas"))
    names: dict[str, Kind] = {**dict.fromkeys(models, "model"), **dict.fromkeys(deltas, "delta")}
    placed = []
    for key in ("steps", "model_pairs"):
        for number, step in _items(content.get(key)):
            placed.append(Placed((key, number), step))
    unknown = []
    for key, short in _SHORT.items():
        for number, form in _items(content.get(key)):
            try:
                steps = [*short.model_validate(form).steps()]
            except ValidationError:
                placed += _references(key, number, form)
                unknown.append(f"{form.get('id')}.")
            else:
                placed += [Placed((key, number), step.model_dump(), at) for step, at in steps]
    return reference_problems(placed, names, unknown) + name_problems(models, deltas)


def _references(key: str, number: int, form: Mapping[str, Any]) -> Iterator[Placed]:
    """What a short form refers to that can't be written out, as steps that make nothing."""
    path = (key, number)
    if key == "chain":
        for at, version in _items(form.get("versions")):
            models = {side: version.get(side) for side in ("base", "post")}
            yield Placed(path, {"run": "apply", **models}, version_places(at))
        return
    yield Placed(path, {"run": "apply", "deltas": form.get("deltas")})
    bases = form.get("bases")
    for at, base in enumerate(bases if isinstance(bases, list) else ()):
        yield Placed(path, {"run": "apply", "base": base}, {("base",): ("bases", at)})


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a list, each with its place there."""
    for number, item in enumerate(value if isinstance(value, list) else ()):
        yield number, _mapping(item)
