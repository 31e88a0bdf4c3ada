"""The model at each scale: known by content from an earlier sweep, or made by `apply` when it is needed.

What apply would release is what is measured: the very folder, with its rounding, tokenizer and config.
Of a base's and deltas' content, the scale and the version follows the model's; so that is kept beside
the results of measuring, and a model of which all results are kept is not made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from pipeline.deltas.delta import open_delta
from pipeline.errors import UsageError
from pipeline.operations.apply import apply
from pipeline.operations.arguments import Difference, ScaledAddend
from pipeline.operations.evaluating.cache import Cache, Record, key_of
from pipeline.operations.evaluating.models import Model, identify, identify_known
from pipeline.operations.outputs.report import ApplyReport
from pipeline.operations.setup import Reading, Setup
from pipeline.operations.sweeping.scales import name_of
from pipeline.storage.local.files import make_folder
from pipeline.storage.local.partials import Partial, remove_abandoned
from pipeline.storage.locations import Scheme, parse_output_model
from pipeline.tensors.fingerprint import Digest
from pipeline.version import TOOL


class Making(Protocol):
    """Where the models of a sweep lie while they are measured, or after it."""

    def place(self, scale: float) -> str:
        """The location of the model at a scale."""

    def done(self, scale: float) -> None:
        """Its model is measured."""


@dataclass(frozen=True, slots=True)
class Temporary:
    """Models in a folder that goes away, one at a time."""

    folder: Path

    def place(self, scale: float) -> str:
        return str(self.folder / name_of(scale))

    def done(self, scale: float) -> None:
        shutil.rmtree(self.place(scale), ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Lasting:
    """Models that stay, in a folder or a container."""

    location: str

    def place(self, scale: float) -> str:
        return f"{self.location.rstrip('/')}/{name_of(scale)}"

    def done(self, scale: float) -> None:
        pass


@contextmanager
def scratch(output: str) -> Iterator[Path]:
    """A folder for what is large and temporary, on the disk of `output` if that is a local one.

    It lies beside it, hidden, and is removed; of a run that was killed by the next one to `output`, or
    by `clean`. Raises StorageError.
    """
    where = parse_output_model(output)
    if where.scheme is not Scheme.LOCAL:
        with TemporaryDirectory(prefix="paramdelta-sweep-") as folder:
            yield Path(folder)
        return
    final = Path(where.path).absolute()
    make_folder(final.parent)
    remove_abandoned(final)
    partial = Partial(final, lambda path: path.mkdir())
    try:
        yield partial.path
    finally:
        shutil.rmtree(partial.path, ignore_errors=True)
        partial.close()


@dataclass
class Maker:
    """The models of base + scale · Σ weight · delta.

    base: of scale 0. making: more options of `apply`, by name. digests: of the deltas.
    """

    base: Model
    deltas: Sequence[ScaledAddend]
    making: Mapping[str, Any]
    digests: Sequence[Any]
    folder: Making
    cache: Cache
    options: Reading
    overwrite: bool
    _there: dict[str, ApplyReport] = field(default_factory=dict)

    def model(self, scale: float) -> Model:
        """The model at a scale; it is made now if nobody knows it."""
        if scale == 0:
            return self.base
        place, key = self.folder.place(scale), self._key(scale)
        known = None if isinstance(self.folder, Lasting) else _known(self.cache.get(key))
        if known is None:
            report = self._apply(scale)
            model = identify_known(place, str(report.fingerprint), Setup.of(self.options))
            self.cache.put(key, [{"fingerprint": model.fingerprint, "key": model.key}])
            known = model.fingerprint, model.key
        return Model(place, self._shown(scale), *known)

    def make(self, model: Model, scale: float) -> None:
        """Let the model be there: it is wanted for more than its name. Raises what `apply` does."""
        if model.text == self.folder.place(scale) and model.text not in self._there:
            self._apply(scale)

    def was_made(self, scale: float) -> bool:
        """Whether the model at a scale was made by this."""
        return self.folder.place(scale) in self._there

    def _apply(self, scale: float) -> ApplyReport:
        place = self.folder.place(scale)
        more = {**self.options, **self.making, "overwrite": self.overwrite}
        self._there[place] = apply(self.base.text, times(self.deltas, scale), place, **more)
        return self._there[place]

    def _key(self, scale: float) -> str:
        weights = [weight for _, weight in self.deltas]
        of = {"base": self.base.key, "deltas": [*self.digests], "weights": weights, "scale": scale}
        return key_of(kind="made", making=dict(self.making), tool=TOOL, **of)

    def _shown(self, scale: float) -> str:
        if isinstance(self.folder, Lasting):
            return str(parse_output_model(self.folder.place(scale)))
        return f"{self.base.location} + {scale:g} · ∆"


def times(deltas: Sequence[ScaledAddend], scale: float) -> list[ScaledAddend]:
    """The deltas with weights that are `scale` times as large."""
    return [(delta, scale * weight) for delta, weight in deltas]


def digests_of(deltas: Sequence[ScaledAddend], options: Reading) -> list[Any]:
    """What tells the deltas apart by content: a manifest's digest, or the two sides of a difference."""
    settings = Setup.of(options).settings
    found: list[Any] = []
    for what, _ in deltas:
        if isinstance(what, Difference):
            sides = identify({"donor_base": what.base, "donor": what.post}, **options)
            found.append([model.key for model in sides.values()])
            continue
        with open_delta(what, settings=settings) as delta:
            found.append(str(delta.manifest_digest))
    return found


def _known(records: Sequence[Record] | None) -> tuple[str, str] | None:
    """A model's fingerprint and key from the cache, if it says something of the kind."""
    try:
        (record,) = records or ()
        fingerprint, key = record["fingerprint"], record["key"]
        Digest.parse(fingerprint), Digest.parse(key)
    except (UsageError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return fingerprint, key
