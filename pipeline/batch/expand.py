"""The short forms of a config, matrix and chain and model_pairs, written out as steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.batch.fields import CodecName, DTypeName, Id, ModelIn, NotEmpty, Scale, Template
from pipeline.batch.references import MARK, Places
from pipeline.batch.steps import Apply, Compute, Pair
from pipeline.batch.terms import AnyTerm, Difference, Model, Term
from pipeline.storage.locations import parse_delta

_LONGEST_STEM = 90  # leaves room for a number behind it


class Matrix(Model):
    """Every delta onto every base: an apply step for each pair, ID.DELTA.BASE.

    id: how the steps' ids begin. deltas, bases: by name, or written out. output: new model folders, with
    {delta} and {base} where their names go. scale: of deltas that have none of their own. dtype: the
    format of the weights; auto is the base's.
    """

    id: Id
    deltas: Annotated[tuple[AnyTerm, ...], Field(strict=False), NotEmpty]
    bases: Annotated[tuple[ModelIn, ...], Field(strict=False), NotEmpty]
    output: Template
    scale: Scale = 1.0
    dtype: DTypeName | None = None

    @model_validator(mode="after")
    def _check_output(self) -> Matrix:
        for wanted, items in (("{delta}", self.deltas), ("{base}", self.bases)):
            if len(items) > 1 and wanted not in self.output:
                raise ValueError(f"the output should say {wanted}, for there are {len(items)}")
        return self

    def steps(self) -> Iterator[tuple[Apply, Places]]:
        """The steps, delta by delta, and where in this their places are written."""
        for row, term in enumerate(self.deltas):
            for column, base in enumerate(self.bases):
                places = {("base",): ("bases", column), ("deltas", 0): ("deltas", row)}
                names = {"delta": _name_of_term(term), "base": name_of(base)}
                step = Apply(
                    id=f"{self.id}.{names['delta']}.{names['base']}",
                    base=base,
                    deltas=(term,),
                    output=fill_template(self.output, names),
                    scale=self.scale,
                    dtype=self.dtype,
                )
                yield step, places


class Version(Model):
    """One version of a base model.

    name: what {version} stands for. base: the model. post: its own post-trained model, where there is
    one.
    """

    name: Id
    base: ModelIn
    post: ModelIn | None = None


class Chain(Model):
    """Base versions, the first of them post-trained: its delta goes onto each later one.

    Steps are ID.VERSION, which write `output`, and ID.delta.VERSION, which write `delta`; {version} is
    filled in. id: how the steps' ids begin. versions: in their order. output: new model folders. delta:
    the deltas, names in the store or locations. rebase: where a later version has a post of its own, the
    delta is computed anew there, and used from there on. scale: of the delta. dtype: the format of the
    weights; auto is the base's. codec: rans packs deltas, losslessly; none leaves them to any reader of
    safetensors.
    """

    id: Id
    versions: Annotated[tuple[Version, ...], Field(strict=False, min_length=2)]
    output: Template
    delta: Template
    rebase: bool = False
    scale: Scale = 1.0
    dtype: DTypeName | None = None
    codec: CodecName = "rans"

    @model_validator(mode="after")
    def _check(self) -> Chain:
        first, *later = self.versions
        if first.post is None:
            raise ValueError("the first version needs a post: it is where the delta comes from")
        names = [version.name for version in self.versions]
        if len(set(names)) < len(names):
            raise ValueError("two versions have one name")
        again = [version.name for version in later if version.post is not None]
        if again and not self.rebase:
            raise ValueError(f'{again[0]} has a post of its own: say "rebase": true to go on from it')
        if len(names) - len(again) > 2 and "{version}" not in self.output:
            raise ValueError("the output should say {version}, for there are several")
        if again and "{version}" not in self.delta:
            raise ValueError("the delta should say {version}, for there are several")
        return self

    def steps(self) -> Iterator[tuple[Compute | Apply, Places]]:
        """The steps, version by version, and where in this their places are written."""
        delta = ""
        for number, version in enumerate(self.versions):
            places = version_places(number)
            names = {"version": version.name}
            if version.post is not None:
                delta = f"{self.id}.delta.{version.name}"
                compute = Compute(
                    id=delta,
                    base=version.base,
                    post=version.post,
                    output=fill_template(self.delta, names),
                    codec=self.codec,
                )
                yield compute, {**places, ("output",): ("delta",)}
            else:
                apply = Apply(
                    id=f"{self.id}.{version.name}",
                    base=version.base,
                    deltas=(Term(delta=MARK + delta),),
                    output=fill_template(self.output, names),
                    scale=self.scale,
                    dtype=self.dtype,
                )
                yield apply, places


def version_places(number: int) -> Places:
    """Where in a chain the models of one version's step are written."""
    return {(key,): ("versions", number, key) for key in ("base", "post")}


def pair_steps(pairs: Sequence[Pair]) -> Iterator[Compute]:
    """The older form's pairs, as steps with ids after the outputs' names."""
    taken: set[str] = set()
    for pair in pairs:
        first = name = _as_id(Path(parse_delta(pair.output).path).stem) if pair.output else "delta"
        number = 1
        while name in taken:
            number += 1
            name = f"{first}-{number}"
        taken.add(name)
        yield Compute(id=name, **pair.model_dump())


def fill_template(template: str, names: dict[str, str]) -> str:
    """`template` with each {name} filled in."""
    for name, value in names.items():
        template = template.replace(f"{{{name}}}", value)
    return template


def name_of(text: str) -> str:
    """What to call a location or a reference, as a part of an id: the last part of its path."""
    if text.startswith(MARK):
        return _as_id(text.removeprefix(MARK))
    path = text.partition("?")[0].rstrip("/")  # a query may be a secret
    return _as_id(Path(path.rpartition("/")[2].partition("@")[0]).name.removesuffix(".safetensors"))


def _name_of_term(term: Term | Difference) -> str:
    return name_of(term.delta if isinstance(term, Term) else term.post)


def _as_id(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:_LONGEST_STEM] or "delta"
