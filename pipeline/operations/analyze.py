"""analyze: what deltas are made of, in one streamed pass over them; figures, and plots of these."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self, Unpack

from pipeline.analysis.measured_base import as_seen, problems_of
from pipeline.analysis.naming import seat_of
from pipeline.analysis.parts import ANY, Split, part_of
from pipeline.analysis.report import Analysis, DeltaFigures, TensorFigures
from pipeline.analysis.sketch import DEFAULT_SIZE, chunk_bytes, sketch_bytes
from pipeline.analysis.statistics import scratch_bytes
from pipeline.analysis.summary import Summary
from pipeline.analysis.tables import Item, Sketches, Tables, lacking, pairs_of
from pipeline.analysis.threads import one_thread_each
from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.files import read_file
from pipeline.deltas.delta import Delta, open_delta
from pipeline.engine.plan import Input, Job, Plan, Ragged
from pipeline.engine.walk import walk
from pipeline.engine.work import Work
from pipeline.errors import Mismatch, UsageError
from pipeline.operations.arguments import Scaled, scaled
from pipeline.operations.kernels.analyze import AnalyzeKernel
from pipeline.operations.outputs.folder import write_folder
from pipeline.operations.outputs.places import Place
from pipeline.operations.setup import Reading, Setup
from pipeline.quality.report import Evaluation
from pipeline.settings import Settings
from pipeline.storage.locations import parse_output_model
from pipeline.storage.opening import open_parent
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.dtypes import compute_dtype
from pipeline.tensors.fingerprint import digest_bytes

ANALYSIS = "analysis.json"
PlotFormat = Literal["svg", "png"]
MOST_DELTAS = 16  # at once; each pair of them is compared
LARGEST_SKETCH = 4096


class Analyzing(Reading, total=False):
    """Options of analyze; for the others see `Reading`.

    overwrite: whether an output that is there already is replaced. dry_run: check everything from
    headers, write nothing.
    """

    overwrite: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class AnalyzeReport:
    """What analyze did, or with `dry_run` would do. analysis: as it stands in `analysis.json`.

    made_of: what tells whether a run would write the same.
    """

    output: str
    deltas: Sequence[str]
    dry_run: bool
    tensors: int
    elements: int
    read_bytes: int
    files: Sequence[str] = ()
    base: str | None = None
    analysis: Analysis | None = None
    made_of: Mapping[str, Any] = field(default_factory=dict)


def analyze(
    deltas: Sequence[str],
    output: str,
    *,
    base: str | None = None,
    plots: str = "svg",
    sketch: int = DEFAULT_SIZE,
    evaluation: Sequence[str | Scaled] | None = None,
    **options: Unpack[Analyzing],
) -> AnalyzeReport:
    """Write figures of `deltas`, and of each pair of them, to the folder `output`; streamed.

    base: a model whose tensors' norms are measured, in place of those that the deltas say of their own
    base. plots: formats of plots: svg, png, both with a comma, or none. sketch: largest number of rows
    and columns whose singular values are computed; tensors with more are folded to so many, 0 leaves
    singular values out.
    evaluation: reports of `evaluate`, each with the scale of the delta in the model that was measured:
    their scores are drawn, too. options: see `Analyzing`.
    Raises the errors of `pipeline.errors`; on any of them nothing appears under `output`.
    """
    _check(deltas, sketch)
    formats = parse_plots(plots)
    setup = Setup.of(options)
    reports = scaled(evaluation) if evaluation else []
    scores = [(scale, _evaluation(each, setup.settings)) for each, scale in reports]
    place = Place.for_model(output, setup).refuse_taken(is_model=True)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_delta(name, settings=setup.settings)) for name in deltas]
        model = None
        if base is not None:
            model = stack.enter_context(
                open_checkpoint(base, settings=setup.settings, headers_only=setup.dry_run)
            )
        run = _Run.prepare(opened, model, sketch)
        made_of = _made_of(opened, model, sketch, formats, scores)
        report = replace(run.report(place), made_of=made_of)
        if setup.dry_run:
            return report
        analysis = replace(run.measure(setup), made_of=made_of)
    files = {**_draw(analysis, scores, formats), ANALYSIS: analysis.to_json().encode()}
    write_folder(place, files)
    return replace(report, files=list(files), analysis=analysis)


def _made_of(
    deltas: Sequence[Delta],
    base: Checkpoint | None,
    sketch: int,
    plots: Sequence[PlotFormat],
    scores: Sequence[tuple[float, Evaluation]],
) -> dict[str, Any]:
    """What tells whether a run would write the same, without reading any tensor."""
    reports = [[scale, str(digest_bytes(each.to_json().encode()))] for scale, each in scores]
    return {
        "deltas": [str(delta.manifest_digest) for delta in deltas],
        "base": str(base.identity) if base else None,
        "sketch": sketch,
        "plots": [*plots],
        "evaluations": reports,
    }


def parse_plots(text: str) -> list[PlotFormat]:
    """The formats that "svg,png" names; none for "none". Raises UsageError."""
    words = [] if text == "none" else [word.strip() for word in text.split(",")]
    known: dict[str, PlotFormat] = {"svg": "svg", "png": "png"}
    if odd := [word for word in words if word not in known]:
        raise UsageError(f"{odd[0]!r} is not a format of plots", hint="use svg, png, svg,png or none")
    return [known[word] for word in dict.fromkeys(words)]


def _check(deltas: Sequence[str], sketch: int) -> None:
    if not deltas:
        raise UsageError("no delta is given", hint="name one or more deltas")
    if len(deltas) > MOST_DELTAS:
        raise UsageError(f"{len(deltas)} deltas are more than {MOST_DELTAS}", hint="give fewer")
    if not 0 <= sketch <= LARGEST_SKETCH or sketch == 1:
        raise UsageError(f"a sketch can't have {sketch} rows", hint=f"give 0, or 2 to {LARGEST_SKETCH}")


def _evaluation(location: str, settings: Settings) -> Evaluation:
    """The report of an evaluation at `location`: a file, or a blob."""
    store, name = open_parent(parse_output_model(location), settings)
    text = read_file(store, name).decode(errors="replace")
    return Evaluation.from_json(text, where=location)


def _draw(
    analysis: Analysis, scores: Sequence[tuple[float, Evaluation]], plots: Sequence[PlotFormat]
) -> Mapping[str, bytes]:
    if not plots:
        return {}
    from pipeline.analysis.plots import draw_analysis
    from pipeline.analysis.score_plots import draw_scores

    drawn = {**draw_analysis(analysis, plots), **draw_scores(scores, plots)}
    return {f"plots/{name}": data for name, data in drawn.items()}


@dataclass(frozen=True)
class _Run:
    """Deltas, and a base if one is measured, opened."""

    deltas: Sequence[Delta]
    base: Checkpoint | None
    items: Sequence[Item]
    plan: Plan
    sketch: int

    @classmethod
    def prepare(cls, deltas: Sequence[Delta], base: Checkpoint | None, sketch: int) -> Self:
        """What is to be read: every tensor of any delta. Raises Mismatch if the base does not fit."""
        names = dict.fromkeys(name for delta in deltas for name in delta.tensors)
        base = as_seen(base, deltas) if base else None
        items = []
        problems: list[str] = []
        for name in names:
            stored = [delta.tensors.get(name) for delta in deltas]
            entry = base.tensors[name].entry if base and name in base.tensors else None
            without = [
                lacking(each.record, delta.manifest.base_rows) if each else ()
                for each, delta in zip(stored, deltas, strict=True)
            ]
            item = Item(name, seat_of(name), stored, entry, without)
            items.append(item)
            problems += problems_of(item, deltas) if base else []
        if base and problems:
            raise Mismatch(
                problems,
                where=base.location,
                hint="give a base of the deltas' architecture, or leave out --base",
            )
        jobs = [_job(item, deltas, base) for item in items]
        return cls(deltas, base, items, Plan(jobs), sketch)

    def report(self, place: Place) -> AnalyzeReport:
        """What is known before the run."""
        return AnalyzeReport(
            output=place.location,
            deltas=[delta.location for delta in self.deltas],
            dry_run=place.setup.dry_run,
            tensors=len(self.items),
            elements=sum(job.count for job in self.plan.jobs),
            read_bytes=self.plan.read_bytes,
            base=self.base.location if self.base else None,
        )

    def measure(self, setup: Setup) -> Analysis:
        """Walk, and put together what was found."""
        began, started = time.monotonic(), datetime.now(UTC)
        tables = Tables.empty(self.plan.rows, len(self.items), len(self.deltas))
        sketches = Sketches(self.items, tables, self.sketch)
        work = Work(
            title=f"analyze {', '.join(delta.location for delta in self.deltas)}",
            plan=self.plan,
            readers=[
                *(delta.reader for delta in self.deltas),
                *(self.base.readers if self.base else ()),
            ],
            make_kernel=lambda: AnalyzeKernel(
                self.items, tables, sketches, [delta.decoder() for delta in self.deltas]
            ),
            scratch_bytes=self._scratch_bytes(),
        )
        with one_thread_each():
            walk(work, setup.resources.limits, setup.progress)
        summary = Summary(self.items, self.plan, tables, measured=self.base is not None)
        pairs = enumerate(pairs_of(len(self.deltas)))
        return Analysis(
            deltas=[self._figures(number, summary) for number in range(len(self.deltas))],
            pairs=[summary.pair(number, *pair) for number, pair in pairs],
            seconds=round(time.monotonic() - began, 3),
            started=started.isoformat(timespec="seconds"),
        )

    def _scratch_bytes(self) -> int:
        """What one worker's kernel takes: decoders, wide values, and two open sketches of each delta."""
        dtypes = {dtype for delta in self.deltas for dtype in delta.dtypes if dtype.is_float}
        bases = {item.base.dtype for item in self.items if item.base and item.base.dtype.is_float}
        width = compute_dtype(*dtypes, *bases)
        largest = max(
            (
                sketch_bytes(stored.record.base_shape, self.sketch)
                for item in self.items
                for stored in item.stored
                if stored and not stored.record.carried
            ),
            default=0,
        )
        values = (len(self.deltas) + 1) * CHUNK_ELEMENTS * width.itemsize
        working = max(scratch_bytes(width), chunk_bytes(width.itemsize) if self.sketch else 0)
        decoding = sum(delta.decoding_bytes for delta in self.deltas)
        return decoding + values + working + 2 * len(self.deltas) * largest

    def _figures(self, number: int, summary: Summary) -> DeltaFigures:
        delta = self.deltas[number]
        manifest = delta.manifest
        tensors = summary.tensors(number)
        split = Split.of([tensor for tensor in tensors if tensor.elements], _place)
        return DeltaFigures(
            location=delta.location,
            fingerprint=str(manifest.fingerprint),
            base=manifest.base.location if manifest.base else None,
            post=manifest.post.location if manifest.post else None,
            base_fingerprint=str(manifest.base.fingerprint) if manifest.base else None,
            measured_base=self.base.location if self.base else None,
            elements=sum(math.prod(tensor.shape) for tensor in tensors),
            dtypes=sorted({tensor.dtype for tensor in tensors}),
            total=part_of(ANY, tensors),
            groups=[part_of(*each) for each in split.groups],
            layers=[part_of(*each) for each in split.layers],
            layer_groups=[part_of(*each) for each in split.layer_groups],
            cells=[part_of(*each) for each in split.cells],
            histograms=summary.histograms(number),
            tensors=tensors,
        )


def _place(tensor: TensorFigures) -> Any:
    return tensor.layer, tensor.group, tensor.module


def _job(item: Item, deltas: Sequence[Delta], base: Checkpoint | None) -> Job:
    """Inputs: two parts of each delta's tensor, then the base's. Nothing comes out."""
    inputs: list[Input | Ragged | None] = []
    for number, delta in enumerate(deltas):
        stored = item.stored[number]
        inputs += delta.inputs(stored, number) if stored else (None, None)
    inputs.append(base.input(item.name, len(deltas)) if base and item.base else None)
    count = max(stored.count for stored in item.stored if stored)
    return Job(None, 0, 0, count, tuple(inputs))
