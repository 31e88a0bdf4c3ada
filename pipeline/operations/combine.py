"""combine: a weighted sum of deltas as a new delta, which adds to any base as they would together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Self, Unpack

from pipeline.deltas.delta import Delta, open_delta
from pipeline.deltas.format import DEFAULT_CODEC, Codec, parse_codec
from pipeline.deltas.layout import DeltaLayout
from pipeline.deltas.manifest import Ancestor, Identity, Manifest, TensorRecord
from pipeline.deltas.stored import StoredTensor
from pipeline.engine.plan import Plan
from pipeline.engine.work import Work
from pipeline.operations.arguments import Scaled, scaled
from pipeline.operations.combine_fit import check_fit, whole_places
from pipeline.operations.kernels.combine import CombineKernel, describe_sum
from pipeline.operations.kernels.findings import Findings
from pipeline.operations.kernels.rows import RowRule
from pipeline.operations.outputs.delta import DeltaOutput
from pipeline.operations.outputs.places import Place
from pipeline.operations.rewrite import lay_out, plan_rewrite
from pipeline.operations.row_rules import shares
from pipeline.operations.setup import Setup, Writing
from pipeline.tensors.arithmetic import sum_bytes
from pipeline.tensors.norms import SCRATCH_BYTES


@dataclass(frozen=True, slots=True)
class CombineReport:
    """What combine did, or with `dry_run` would do. base: the deltas' own, if they share one."""

    output: str
    deltas: Sequence[tuple[str, float]]
    dry_run: bool
    codec: str
    tensors: int
    elements: int
    read_bytes: int
    written_bytes: int | None = None
    base: str | None = None
    fingerprint: str | None = None
    remainders: int | None = None


def combine(
    deltas: Sequence[Scaled], output: str, *, codec: str = DEFAULT_CODEC, **options: Unpack[Writing]
) -> CombineReport:
    """Write the sum of scale * delta as the delta file `output`; streamed, whatever their size.

    deltas: locations and scales. The sum is that of the exact deltas, in float32 (float64 where they are
    of such models), and is stored exactly: rounded to the first delta's format, with what rounding lost
    beside it. Rows that the bases lacked are no differences: of those it has the mean that apply would
    take. Tokenizer, templates and config are the first delta's. options: see `Writing`.
    Raises the errors of `pipeline.errors`; on any of them nothing appears under `output`.
    """
    form = parse_codec(codec)
    wanted = scaled(deltas)
    setup = Setup.of(options)
    place = Place.for_delta(output, setup).refuse_taken(is_model=False)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_delta(name, settings=setup.settings)) for name, _ in wanted]
        run = _Run.prepare(opened, [scale for _, scale in wanted], form)
        report = run.report(place)
        return report if setup.dry_run else run.write(place, report)


@dataclass(frozen=True)
class _Run:
    """One sum of deltas, its inputs opened.

    parents: for each tensor of the layout, in order, those that are added up. base: the one that all
    deltas were made on, if they share one.
    """

    deltas: Sequence[Delta]
    scales: Sequence[float]
    layout: DeltaLayout
    parents: Sequence[Sequence[StoredTensor]]
    plan: Plan
    base: Identity | None

    @classmethod
    def prepare(cls, deltas: Sequence[Delta], scales: Sequence[float], codec: Codec) -> Self:
        """What is to be done. Raises Mismatch if the deltas do not fit together."""
        check_fit(deltas)
        first = deltas[0]
        layout, ordered = lay_out([each.record for each in first.tensors.values()], first, codec)
        parents = [[delta.tensors[each.record.name] for delta in deltas] for each in ordered]
        plan = plan_rewrite(layout, parents, deltas)
        return cls(deltas, scales, layout, parents, plan, _shared_base(deltas))

    def report(self, place: Place) -> CombineReport:
        """What is known before the run."""
        return CombineReport(
            output=place.location,
            deltas=[(d.location, s) for d, s in zip(self.deltas, self.scales, strict=True)],
            dry_run=place.setup.dry_run,
            codec=self.layout.codec,
            tensors=len(self.parents),
            elements=sum(tensor.count for tensor in self.layout.tensors),
            read_bytes=self.plan.read_bytes,
            base=self.base.location if self.base else None,
        )

    def write(self, place: Place, report: CombineReport) -> CombineReport:
        """Write the sum."""
        dtypes = {dtype for delta in self.deltas for dtype in delta.dtypes}
        output = DeltaOutput.of(self.layout, self.plan, dtypes)
        found = Findings.beside(output.tables)
        keeps_base = self.base is not None
        work = Work(
            title=f"combine {place.location}",
            plan=self.plan,
            readers=[delta.reader for delta in self.deltas],
            make_kernel=lambda: CombineKernel(
                self.parents,
                self.scales,
                found,
                [delta.decoder() for delta in self.deltas],
                output.encoder(),
                keeps_base,
                self._rules(),
            ),
            findings=[found.counts, found.norms],
            options=[self.scales],
            scratch_bytes=sum_bytes(dtypes)
            + SCRATCH_BYTES
            + sum(delta.decoding_bytes for delta in self.deltas),
        )

        def describe() -> Manifest:
            return self._manifest(
                [
                    describe_sum(found, stored, self.plan.rows_of(job), keeps_base=keeps_base)
                    for job, stored in enumerate(self.parents)
                ]
            )

        manifest, size = output.write(place, work, self.deltas[0].read_companions(), describe)
        return replace(
            report,
            written_bytes=size,
            fingerprint=str(manifest.fingerprint),
            remainders=int(found.counts[:, 1].sum()),
        )

    def _rules(self) -> list[list[RowRule]]:
        """For each job what counts of rows that are whole: not a sum but a mean, as in apply."""
        mean, first = shares([True] * len(self.deltas), self.scales), self.deltas[0]
        places = [whole_places(first, stored[0].record.name) for stored in self.parents]
        return [[RowRule(start, stop, False, mean) for start, stop in each] for each in places]

    def _manifest(self, tensors: Sequence[TensorRecord]) -> Manifest:
        first = self.deltas[0].manifest
        ancestors = [
            Ancestor(d.location, scale, d.manifest.fingerprint, d.manifest.base, d.manifest.post)
            for d, scale in zip(self.deltas, self.scales, strict=True)
        ]
        return Manifest(
            base=self.base,
            post=None,
            codec=self.layout.codec,
            tensors=tensors,
            post_config=first.post_config,
            files=first.files,
            ancestors=tuple(ancestors),
            base_rows=first.base_rows,
            base_sample=first.base_sample if self.base else None,
        )


def _shared_base(deltas: Sequence[Delta]) -> Identity | None:
    """The base that all deltas were made on, or None."""
    bases = [delta.manifest.base for delta in deltas]
    first = bases[0]
    same = first and all(base and base.fingerprint == first.fingerprint for base in bases)
    return first if same else None
