"""combine: a weighted sum of deltas as a new delta, which adds to any base as they would together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Self, Unpack

from pipeline.checkpoints.alignment import check_vocabulary, is_absent, name_problems, show
from pipeline.checkpoints.vocabulary import unite
from pipeline.deltas.base_rows import whole_rows
from pipeline.deltas.delta import Delta, open_delta
from pipeline.deltas.format import DEFAULT_CODEC, Codec, parse_codec
from pipeline.deltas.layout import DeltaLayout
from pipeline.deltas.manifest import Ancestor, Identity, Manifest, TensorRecord
from pipeline.deltas.stored import StoredTensor
from pipeline.engine.plan import Plan
from pipeline.engine.work import Work
from pipeline.errors import Mismatch
from pipeline.operations.arguments import Scaled, scaled
from pipeline.operations.kernels.combine import CombineKernel, describe_sum
from pipeline.operations.kernels.findings import Findings
from pipeline.operations.kernels.rows import RowRule, shares
from pipeline.operations.outputs.delta import DeltaOutput
from pipeline.operations.outputs.places import Place
from pipeline.operations.rewrite import lay_out, plan_rewrite
from pipeline.operations.setup import Setup, Writing
from pipeline.tensors.arithmetic import sum_bytes
from pipeline.tensors.dtypes import DType
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


def _check_fit(deltas: Sequence[Delta]) -> None:
    """All must have the same tensors. Raises Mismatch with every one that differs."""
    first = deltas[0]
    problems: list[str] = []
    for other in deltas[1:]:
        problems += name_problems(first.tensors, other.tensors, first.location, other.location)
        for name in first.tensors.keys() & other.tensors.keys():
            ours, theirs = first.tensors[name].record, other.tensors[name].record
            if ours.shape != theirs.shape or _kind(ours) != _kind(theirs):
                problems.append(
                    f"{name} is {_describe(ours)} in {first.location}, "
                    f"{_describe(theirs)} in {other.location}"
                )
            elif _is_whole(ours) != _is_whole(theirs) or (
                _is_whole(ours) and ours.stored_digest != theirs.stored_digest
            ):
                problems.append(f"{name} is carried whole, and not the same in {other.location}")
    if problems:
        raise Mismatch(
            sorted(problems),
            where=", ".join(delta.location for delta in deltas),
            hint="only deltas of one architecture add up: compare them with `cli.py inspect`",
        )
    _check_tokens(deltas)
    _check_whole_rows(deltas)


def _check_tokens(deltas: Sequence[Delta]) -> None:
    """A row must be the same token's in all, as far as tokens are known. Raises Mismatch."""
    vocabularies = [delta.read_vocabulary() for delta in deltas]
    known = {d.location: v for d, v in zip(deltas, vocabularies, strict=True) if v is not None}
    first, *others = deltas
    if len(known) > 1:
        unite(list(known.values()), where=", ".join(known))
    if len(known) < len(deltas):
        for other in others:
            where = f"{first.location} and {other.location}"
            check_vocabulary(first.read_tokenizer(), other.read_tokenizer(), where=where)


def _whole(delta: Delta, name: str) -> list[tuple[int, int]]:
    """Which rows of a tensor are post's own in a delta; see `whole_rows`."""
    record, rows = delta.tensors[name].record, delta.manifest.base_rows
    return whole_rows(record.shape, record.base_shape, rows if rows and name in rows.tensors else None)


def _shown(places: Sequence[tuple[int, int]]) -> str:
    listed = [f"{start} to {stop - 1}" for start, stop in places[:3]]
    return f"rows {', '.join(listed)}{', …' if len(places) > 3 else ''}" if places else "no rows"


def _check_whole_rows(deltas: Sequence[Delta]) -> None:
    """Rows that one delta has whole are so in all. Raises Mismatch.

    Else a row might be whole in one and a difference in another, which no sum of them could say.
    """
    first, *others = deltas
    problems = [
        f"{name}: {_shown(_whole(first, name))} are whole in {first.location}, "
        f"{_shown(_whole(other, name))} in {other.location}"
        for other in others
        for name in first.tensors
        if _whole(first, name) != _whole(other, name)
    ]
    if problems:
        raise Mismatch(
            problems,
            where=", ".join(delta.location for delta in deltas),
            hint="give them to `cli.py apply` together: there a row may be whole in one and a "
            "difference in another",
        )


def _is_whole(record: TensorRecord) -> bool:
    return is_absent(record.base_shape, record.shape)


def _kind(record: TensorRecord) -> tuple[bool, DType]:
    """What must be the same: the format of the arithmetic, or that of what is carried."""
    return record.carried, record.post if record.carried else record.width


def _describe(record: TensorRecord) -> str:
    text = f"{show(record.shape)} {record.post}"
    return text if record.post == record.base else f"{text} on a base of {record.base}"


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
        _check_fit(deltas)
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
        mean = shares([True] * len(self.deltas), self.scales)
        first = self.deltas[0]
        return [
            []
            if _is_whole(stored[0].record)
            else [
                RowRule(start, stop, False, mean) for start, stop in _whole(first, stored[0].record.name)
            ]
            for stored in self.parents
        ]

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
