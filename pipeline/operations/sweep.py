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
from pipeline.operations.outputs.places import Place
from pipeline.operations.setup import Reading, Setup
from pipeline.operations.sweeping.making import (
    Lasting,
    Maker,
    Making,
    Temporary,
    digests_of,
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
    reading = cast(Reading, given)
    setup = Setup.of(cast(Reading, {**given, "overwrite": overwrite, "dry_run": dry_run}))
    named, values = scaled(deltas), parse_scales(scales, begin=begin, end=end, steps=steps)
    formats = parse_plots(plots)
    place = Place.for_model(output, setup).refuse_taken(is_model=True)
    measured = cast(Measured, wanted)
    prepared = Prepared.of(_in_order(["model", *roles]), setup.settings, **measured)
    begun = _begin(place, named, values, prepared, reading, {**(making or {})}, keep, roles)
    if dry_run:
        return replace(begun, seconds=_since(began))
    with scratch(output) as folder:
        models: Making = Lasting(keep) if keep else Temporary(folder)
        results = Cache(folder / "results") if cache == "off" else Cache.at(cache)
        run = _Run(setup, prepared, results, folder / "files", models, reading)
        report = run.measure(begun, roles, named, {**(making or {})})
        run.draw(report, formats)
        return run.publish(place, replace(report, seconds=_since(began)))


@dataclass(frozen=True)
class _Run:
    """A sweep under way. files: where the output grows, on this machine."""

    setup: Setup
    prepared: Prepared
    cache: Cache
    files: Path
    models: Making
    reading: Reading

    def measure(
        self,
        begun: Sweep,
        roles: Mapping[Role, str],
        deltas: Sequence[ScaledAddend],
        making: Mapping[str, Any],
    ) -> Sweep:
        """Every scale, one after the other."""
        self.files.mkdir(parents=True)
        others = identify(roles, **self.reading)
        digests = digests_of(deltas, self.reading)
        maker = Maker(
            others["base"], deltas, making, digests, self.models, self.cache, self.reading,
            self.setup.overwrite,
        )  # fmt: skip
        points: list[Point] = []
        scores: dict[Role, Scores] = {}
        for point in begun.points:
            found, scores = self._point(point.scale, maker, others)
            points.append(found)
        made_of = {**begun.made_of, "deltas": digests}
        made_of["models"] = {role: model.fingerprint for role, model in others.items()}
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
        kept = model.location if isinstance(self.models, Lasting) and scale else None
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
        names = {path.relative_to(self.files).as_posix(): path for path in paths}
        report = replace(report, files=[*names, SWEEP])
        self._write(SWEEP, report.to_json().encode(errors="backslashreplace"))
        names[SWEEP] = self.files / SWEEP
        with place.create_folder(sum(path.stat().st_size for path in names.values())) as folder:
            for name, path in names.items():
                content = path.read_bytes()
                with folder.create(name, size_hint=len(content)) as writer:
                    writer.write(0, content)
                    writer.commit()
            folder.publish(list(names))
        return report

    def _write(self, name: str, data: bytes) -> None:
        path = self.files / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def _begin(
    place: Place,
    deltas: Sequence[ScaledAddend],
    scales: Sequence[float],
    prepared: Prepared,
    reading: Reading,
    making: Mapping[str, Any],
    keep: str | None,
    roles: Mapping[Role, str],
) -> Sweep:
    """The report as far as headers tell. Raises what `apply` does before it reads weights."""
    shown = {}
    for role, text in roles.items():
        below, settings = base_of(role, roles), place.setup.settings
        with open_model(text, base=below, settings=settings, headers_only=True) as checkpoint:
            shown[role] = Scores(checkpoint.location, "", {})
    moving = [scale for scale in scales if scale]
    nbytes, names = 0, [("", weight) for _, weight in deltas]
    if moving:
        at = Lasting(keep or place.location).place(moving[-1])
        more = {**reading, **making, "overwrite": place.setup.overwrite or not keep, "dry_run": True}
        planned = apply(roles["base"], times(deltas, moving[-1]), at, **more)
        nbytes = planned.written_bytes
        names = [(name, weight) for (name, _), (_, weight) in zip(planned.deltas, deltas, strict=True)]
    report = prepared.report({})
    return Sweep(
        output=place.location,
        base=shown["base"].location,
        deltas=names,
        points=[Point(scale) for scale in scales],
        dry_run=place.setup.dry_run,
        others=shown,
        data=report.data,
        settings=report.settings,
        made_of={
            "making": dict(making),
            "weights": [weight for _, weight in deltas],
            "deltas": digests_of([each for each in deltas if isinstance(each[0], str)], reading),
        },
        model_bytes=nbytes,
        disk_bytes=_room(nbytes, len(moving), keep, place),
        started=report.started,
    )


def _room(nbytes: int, count: int, keep: str | None, place: Place) -> int:
    """What models take on the disk of this machine at most at once. Raises StorageError."""
    where = parse_output_model(keep) if keep else None
    if where is not None and where.scheme is not Scheme.LOCAL:
        return 0
    wanted = nbytes * (count if keep else min(count, 1))
    folder = Path(where.path) if where else Path(gettempdir() if place.is_remote else place.location)
    if wanted > free_bytes(folder.absolute()):
        raise StorageError(
            f"the models take {format_bytes(wanted)}, and there is not so much room",
            where=str(folder),
            hint="name an output on another disk, or leave out --keep",
        )
    _log.info("models take %s of the disk under %s", format_bytes(wanted), folder)
    return wanted


def _in_order(roles: Sequence[Role]) -> list[Role]:
    return [role for role in ROLES if role in roles]


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
