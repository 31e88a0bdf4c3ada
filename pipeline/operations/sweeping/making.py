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

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.deltas.delta import open_delta
from pipeline.errors import OutputExists, PipelineError, UsageError
from pipeline.operations.apply import apply
from pipeline.operations.arguments import Difference, ScaledAddend
from pipeline.operations.evaluating.cache import Cache, Record, key_of
from pipeline.operations.evaluating.models import Model, identify, identify_known
from pipeline.operations.freshness import apply_freshness
from pipeline.operations.setup import Reading, Setup
from pipeline.operations.sweeping.scales import name_of
from pipeline.quality.sweep import as_written
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
        url, mark, signature = self.location.partition("?" if "://" in self.location else "\0")
        return f"{url.rstrip('/')}/{name_of(scale)}{mark}{signature}"

    def done(self, scale: float) -> None:
        pass

    def refuse_others(
        self,
        base: str,
        deltas: Sequence[ScaledAddend],
        scales: Sequence[float],
        options: Mapping[str, Any],
    ) -> None:
        """Raise OutputExists if what stands where a model will be is not that very model.

        options: of `apply`. Headers are all that is read.
        """
        taken = []
        for scale in scales:
            found = apply_freshness(
                base, times(deltas, scale), self.place(scale), **options, fingerprint_of=_nobody_knows
            )
            if found.state == "stale" and not found.is_underway:
                taken.append(f"{name_of(scale)} {found.reason}")
        if taken:
            raise OutputExists(
                f"there are other models: {'; '.join(taken)}",
                where=str(parse_output_model(self.location)),
                hint="add --overwrite to replace them, or keep models elsewhere",
            )


def _nobody_knows(model: Checkpoint) -> None:
    """The fingerprint of a checkpoint, before anything is read."""


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
    _there: set[str] = field(default_factory=set)
    _made: set[str] = field(default_factory=set)

    def model(self, scale: float) -> Model:
        """The model at a scale; it is made now if it is neither kept nor known."""
        if scale == 0:
            return self.base
        place, setup = self.folder.place(scale), Setup.of(self.options)
        if isinstance(self.folder, Lasting):
            return identify_known(place, self._kept(scale) or self._apply(scale), setup)
        key = self._key(scale)
        known = _known(self.cache.get(key))
        if known is None:
            model = identify_known(place, self._apply(scale), setup)
            known = model.fingerprint, model.key
            self.cache.put(key, [{"fingerprint": model.fingerprint, "key": model.key}])
        return Model(place, f"{self.base.location} + {as_written(scale)} · ∆", *known)

    def make(self, model: Model, scale: float) -> None:
        """Let the model be there: it is wanted for more than its name. Raises what `apply` does."""
        if model.text == self.folder.place(scale) and model.text not in self._there:
            self._apply(scale)

    def was_made(self, scale: float) -> bool:
        """Whether the model at a scale was made by this."""
        return self.folder.place(scale) in self._made

    def _kept(self, scale: float) -> str | None:
        """The fingerprint of the model that an earlier sweep has kept, if it is the wanted one."""
        place = self.folder.place(scale)
        found = apply_freshness(
            self.base.text,
            times(self.deltas, scale),
            place,
            **{**self.options, **self.making},
            fingerprint_of=self._fingerprint_of,
        )
        if found.state == "fresh":
            self._there.add(place)
        return found.fingerprint

    def _fingerprint_of(self, model: Checkpoint) -> Digest | None:
        return Digest.parse(self.base.fingerprint) if model.location == self.base.location else None

    def _apply(self, scale: float) -> str:
        """Make the model at a scale; returns its fingerprint."""
        place = self.folder.place(scale)
        more = {**self.options, **self.making, "overwrite": self.overwrite}
        report = apply(self.base.text, times(self.deltas, scale), place, **more)
        self._there.add(place)
        self._made.add(place)
        return str(report.fingerprint)

    def _key(self, scale: float) -> str:
        weights = [weight for _, weight in self.deltas]
        of = {"base": self.base.key, "deltas": [*self.digests], "weights": weights, "scale": scale}
        return key_of(kind="made", making=dict(self.making), tool=TOOL, **of)


@contextmanager
def saying(scale: float) -> Iterator[None]:
    """Let errors say at which scale they came: the model's folder may be hidden, and gone by then."""
    try:
        yield
    except PipelineError as error:
        error.what = f"at scale {as_written(scale)}: {error.what}"
        raise


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
