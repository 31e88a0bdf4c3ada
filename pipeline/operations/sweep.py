"""sweep: deltas at several scales, each applied, measured and let go of; which scale is best by what."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Unpack, cast

from pipeline.checkpoints.adapters.post import open_model
from pipeline.errors import StorageError
from pipeline.operations.analyze import parse_plots
from pipeline.operations.apply import apply
from pipeline.operations.arguments import Difference, ScaledAddend, scaled
from pipeline.operations.evaluating.cache import Cache
from pipeline.operations.evaluating.models import Bench, Model, base_of, identify
from pipeline.operations.evaluating.preparing import Measured, Prepared
from pipeline.operations.evaluating.publishing import items_text
from pipeline.operations.outputs.folder import write_folder
from pipeline.operations.outputs.places import Place
from pipeline.operations.setup import Reading, Setup
from pipeline.operations.sweeping.making import (
    Lasting,
    Maker,
    Making,
    Temporary,
    digests_of,
    saying,
    scratch,
    times,
)
from pipeline.operations.sweeping.scales import name_of, parse_scales
from pipeline.quality.report import ROLES, Role, Scores
from pipeline.quality.sweep import Point, Sweep, best_of
from pipeline.storage.local.files import free_bytes
from pipeline.storage.locations import Scheme, parse_output_model
from pipeline.units import format_bytes

SWEEP = "sweep.json"
_AGAINST: tuple[Role, ...] = ("reference", "donor_base", "donor")
_log = logging.getLogger(__name__)


class Sweeping(Reading, Measured, total=False):
    """Options of sweep.

    reference, donor, donor_base: what every scale is held against, as in `evaluate`; the base always is.
    For the others see `Reading` and `Measured`.
    """

    reference: str | None
    donor: str | None
    donor_base: str | None


def sweep(
    base: str,
    deltas: Sequence[str | Difference | ScaledAddend],
    output: str,
    *,
    scales: str | Sequence[float] | None = None,
    begin: float | None = None,
    end: float | None = None,
    steps: int | None = None,
    making: Mapping[str, Any] | None = None,
    keep: str | None = None,
    plots: str = "svg,png",
    cache: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    **options: Unpack[Sweeping],
) -> Sweep:
    """Measure base + scale · Σ weight · delta at each scale, and write the folder `output`.

    deltas: as in `apply`; a delta's own scale is its weight. scales: numbers, or text with commas; or
    `steps` scales evenly from `begin` to `end`. 0 is the base itself, with its own tokenizer. making:
    more options of `apply`, by name. keep: a folder or container where the models stay; by default each
    goes once it is measured, and only one is on the disk at a time. plots: see `analyze`. cache: see
    `evaluate`; models whose results are all in it are not made. dry_run: check what headers and data
    tell, and say what it would take. options: see `Sweeping`.

    The folder has `sweep.json`, of each scale a whole evaluation and its items, and plots.
    Raises the errors of `pipeline.errors`; on any of them nothing appears under `output`.
    """
    began = time.monotonic()
    given: dict[str, Any] = {**options}
    roles: dict[Role, str] = {"base": base}
    roles |= {role: text for role in _AGAINST if (text := given.pop(role, None)) is not None}
    wanted = {name: given.pop(name) for name in [*given] if name in Measured.__annotations__}
    setup = Setup.of(cast(Reading, {**given, "overwrite": overwrite, "dry_run": dry_run}))
    values = parse_scales(scales, begin=begin, end=end, steps=steps)
    asked = _Asked(roles, scaled(deltas), values, {**(making or {})}, cast(Reading, given), keep)
    formats = parse_plots(plots)
    place = Place.for_model(output, setup).refuse_taken(is_model=True)
    prepared = Prepared.of(_in_order(["model", *roles]), setup.settings, **cast(Measured, wanted))
    begun = asked.outlook(place, prepared, formats)
    if dry_run:
        return replace(begun, seconds=_since(began))
    with scratch(output) as folder:
        models: Making = Lasting(keep) if keep else Temporary(folder)
        results = Cache(folder / "results") if cache == "off" else Cache.at(cache)
        run = _Run(asked, setup, prepared, results, folder / "files", models)
        report = run.measure(begun)
        run.draw(report, formats)
        return run.publish(place, replace(report, seconds=_since(began)))


@dataclass(frozen=True)
class _Asked:
    """What is to be swept. roles: the base, and what every scale is held against. See `sweep`."""

    roles: Mapping[Role, str]
    deltas: Sequence[ScaledAddend]
    scales: Sequence[float]
    making: Mapping[str, Any]
    reading: Reading
    keep: str | None

    def outlook(self, place: Place, prepared: Prepared, formats: Sequence[str]) -> Sweep:
        """The report as far as headers tell. Raises what `apply` does before it reads weights."""
        shown = {}
        for role, text in self.roles.items():
            below, settings = base_of(role, self.roles), place.setup.settings
            with open_model(text, base=below, settings=settings, headers_only=True) as checkpoint:
                shown[role] = Scores(checkpoint.location, "", {})
        nbytes, names = self._plan(place.setup)
        stored = [each for each in self.deltas if isinstance(each[0], str)]
        report = prepared.report({})
        return Sweep(
            output=place.location,
            base=shown["base"].location,
            deltas=names,
            points=[Point(scale) for scale in self.scales],
            dry_run=place.setup.dry_run,
            others=shown,
            data=report.data,
            settings=report.settings,
            made_of={
                "making": dict(self.making),
                "weights": [weight for _, weight in self.deltas],
                "deltas": digests_of(stored, self.reading),
                "plots": [*formats],
            },
            model_bytes=nbytes,
            disk_bytes=self._room(nbytes, place),
            started=report.started,
        )

    def _plan(self, setup: Setup) -> tuple[int, list[tuple[str, float]]]:
        """What one model takes, and the deltas as they may be shown. Raises what `apply` does."""
        moving = [scale for scale in self.scales if scale]
        names = [("", weight) for _, weight in self.deltas]
        if not moving:
            return 0, names
        base, options = self.roles["base"], {**self.reading, **self.making}
        if self.keep and not setup.overwrite:
            Lasting(self.keep).refuse_others(base, self.deltas, moving, options)
        # Where it would lie does not matter: a sum takes as much at any scale, and nothing is written.
        planned = apply(
            base,
            times(self.deltas, moving[-1]),
            str(Path(gettempdir(), name_of(moving[-1]))),
            **{**options, "overwrite": True, "dry_run": True},
        )
        named = zip(planned.deltas, names, strict=True)
        return planned.written_bytes, [(name, weight) for (name, _), (_, weight) in named]

    def _room(self, nbytes: int, place: Place) -> int:
        """What models take on the disk of this machine at most at once. Raises StorageError."""
        where = parse_output_model(self.keep) if self.keep else None
        if where is not None and where.scheme is not Scheme.LOCAL:
            return 0
        count = sum(map(bool, self.scales))
        wanted = nbytes * (count if self.keep else min(count, 1))
        folder = Path(where.path) if where else Path(gettempdir() if place.is_remote else place.location)
        if wanted > free_bytes(folder.absolute()):
            other = "name an output on another disk"
            raise StorageError(
                f"the models take {format_bytes(wanted)}, and there is not so much room",
                where=str(folder),
                hint="leave out --keep" if where else "set TMPDIR" if place.is_remote else other,
            )
        _log.info("models take %s of the disk under %s", format_bytes(wanted), folder)
        return wanted


@dataclass(frozen=True)
class _Run:
    """A sweep under way. files: where the output grows, on this machine."""

    asked: _Asked
    setup: Setup
    prepared: Prepared
    cache: Cache
    files: Path
    models: Making

    def measure(self, begun: Sweep) -> Sweep:
        """Every scale, one after the other. begun: the report as far as headers tell."""
        self.files.mkdir(parents=True)
        asked = self.asked
        others = identify(asked.roles, **asked.reading)
        digests = digests_of(asked.deltas, asked.reading)
        maker = Maker(
            others["base"], asked.deltas, asked.making, digests, self.models, self.cache, asked.reading,
            self.setup.overwrite,
        )  # fmt: skip
        points: list[Point] = []
        scores: dict[Role, Scores] = {}
        for scale in asked.scales:
            with saying(scale):
                point, scores = self._point(scale, maker, others)
            points.append(point)
        fingerprints = {role: model.fingerprint for role, model in others.items()}
        made_of = {**begun.made_of, "deltas": digests, "models": fingerprints}
        against: dict[Role, Scores] = {role: each for role, each in scores.items() if role != "model"}
        return replace(begun, points=points, others=against, best=best_of(points), made_of=made_of)

    def _point(
        self, scale: float, maker: Maker, others: Mapping[Role, Model]
    ) -> tuple[Point, dict[Role, Scores]]:
        """One scale: its figures, and the files of it."""
        began, name = time.monotonic(), name_of(scale)
        model = maker.model(scale)
        models = {
            role: model if role == "model" else others[role] for role in _in_order(("model", *others))
        }
        bench = Bench(self.setup, self.prepared.how, partial(maker.make, scale=scale))
        scores, results = self.prepared.measure(models, self.cache, bench, self.setup.progress)
        self.models.done(scale)
        names = {role: f"{name if role == 'model' else role}.items.jsonl" for role in models}
        report = self.prepared.report(names)
        report = replace(report, scores=scores, seconds=_since(began))
        for role, file in names.items():
            self._write(file, items_text(results[role]).encode(errors="backslashreplace"))
        self._write(f"{name}.json", report.to_json().encode(errors="backslashreplace"))
        kept = model.location if self.asked.keep and scale else None
        made = bool(scale) and maker.was_made(scale)
        figures = scores["model"].figures
        return Point(scale, model.fingerprint, figures, f"{name}.json", made, kept), scores

    def draw(self, report: Sweep, formats: Sequence[str]) -> None:
        """Add the plots."""
        if formats:
            from pipeline.analysis.sweep_plots import draw_sweep

            for name, data in draw_sweep(report, formats).items():
                self._write(f"plots/{name}", data)

    def publish(self, place: Place, report: Sweep) -> Sweep:
        """Write the folder, which appears as a whole; returns the report as it stands there."""
        paths = sorted(path for path in self.files.rglob("*") if path.is_file())
        files: dict[str, bytes | Path] = {
            path.relative_to(self.files).as_posix(): path for path in paths
        }
        report = replace(report, files=[*files, SWEEP])
        write_folder(place, {**files, SWEEP: report.to_json().encode(errors="backslashreplace")})
        return report

    def _write(self, name: str, data: bytes) -> None:
        path = self.files / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def _in_order(roles: Sequence[Role]) -> list[Role]:
    return [role for role in ROLES if role in roles]


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
