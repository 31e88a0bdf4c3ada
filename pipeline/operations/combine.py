"""combine: a weighted sum of deltas as a new delta, which adds to any base as they would together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.alignment import check_vocabulary, name_problems, show
from pipeline.deltas.chunks import ChunkDecoder, ChunkEncoder, ChunkMemory, Tables
from pipeline.deltas.delta import Delta, StoredTensor, open_delta
from pipeline.deltas.format import BASE, DEFAULT_CODEC, STORED, Codec, parse_codec
from pipeline.deltas.manifest import Ancestor, Identity, Manifest, TensorRecord
from pipeline.deltas.signing import Signer
from pipeline.engine.plan import Plan, Slice
from pipeline.errors import Mismatch, UsageError
from pipeline.operations.common import DEFAULT_MEMORY, Resources
from pipeline.operations.convert import lay_out, plan_rewrite
from pipeline.operations.delta_output import DeltaOutput, DeltaPlace
from pipeline.progress import Progressing, silent
from pipeline.settings import Settings
from pipeline.tensors.arithmetic import CpuArithmetic, Operand, Term, sum_bytes
from pipeline.tensors.dtypes import Bytes, DType
from pipeline.tensors.fingerprint import fold_tensor
from pipeline.tensors.norms import SCRATCH_BYTES, Norms, fold, measure_into


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
    deltas: Sequence[tuple[str, float]],
    output: str,
    *,
    codec: str = DEFAULT_CODEC,
    store: str | None = None,
    memory: str | int = DEFAULT_MEMORY,
    workers: int | None = None,
    sign_key: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progressing = silent,
) -> CombineReport:
    """Write the sum of scale * delta as the delta file `output`; streamed, whatever their size.

    deltas: locations and scales. The sum is that of the exact deltas, in float32 (float64 where they are
    of such models), and is stored exactly: rounded to the first delta's format, with what rounding lost
    beside it. Tokenizer, templates and config are the first delta's.
    Raises the errors of `pipeline.errors`; on any of them nothing appears under `output`.
    """
    form = parse_codec(codec)
    if not deltas:
        raise UsageError("no delta is given", hint="add --delta NAME=SCALE")
    if any(not math.isfinite(scale) for _, scale in deltas):
        raise UsageError("a scale must be a finite number", hint="for example --delta NAME=0.8")
    settings = Settings.load(store=store)
    resources = Resources.parse(memory=memory, workers=workers, device="cpu")
    signer = Signer.load(sign_key, settings.sign_password) if sign_key else None
    place = DeltaPlace.open(output, settings, overwrite=overwrite, signer=signer)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_delta(name, settings=settings)) for name, _ in deltas]
        run = _Run(opened, [scale for _, scale in deltas], form)
        return run.write(place, resources, progress, dry_run=dry_run)


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
    if problems:
        raise Mismatch(
            sorted(problems),
            where=", ".join(delta.location for delta in deltas),
            hint="only deltas of one architecture add up: compare them with `cli.py inspect`",
        )
    for other in deltas[1:]:
        tokenizers = [
            delta.read_companion("tokenizer.json") if "tokenizer.json" in delta.companions else None
            for delta in (first, other)
        ]
        check_vocabulary(*tokenizers, where=f"{first.location} and {other.location}")


def _kind(record: TensorRecord) -> tuple[bool, DType]:
    """What must be the same: the format of the arithmetic, or that of what is carried."""
    return record.carried, record.post if record.carried else record.width


def _describe(record: TensorRecord) -> str:
    text = f"{show(record.shape)} {record.post}"
    return text if record.post == record.base else f"{text} on a base of {record.base}"


@dataclass(frozen=True)
class _Run:
    """One sum of deltas, its inputs opened."""

    deltas: Sequence[Delta]
    scales: Sequence[float]
    codec: Codec

    def write(
        self, place: DeltaPlace, resources: Resources, progress: Progressing, *, dry_run: bool
    ) -> CombineReport:
        """Check, plan, and unless it is a dry run write."""
        _check_fit(self.deltas)
        first = self.deltas[0]
        layout, ordered = lay_out([t.record for t in first.tensors.values()], first, self.codec)
        parents = [[delta.tensors[t.record.name] for delta in self.deltas] for t in ordered]
        plan = plan_rewrite(layout, parents, self.deltas)
        base = self._shared_base()
        report = CombineReport(
            output=place.location,
            deltas=[(d.location, s) for d, s in zip(self.deltas, self.scales, strict=True)],
            dry_run=dry_run,
            codec=self.codec,
            tensors=len(ordered),
            elements=sum(tensor.count for tensor in layout.tensors),
            read_bytes=plan.read_bytes,
            base=base.location if base else None,
        )
        if dry_run:
            return report
        tables = Tables.empty(plan.rows, self.codec)
        found = _Found(tables, np.zeros((plan.rows, 2), np.int64), np.zeros((plan.rows, 3)))
        dtypes = {dtype for delta in self.deltas for dtype in delta.dtypes}
        manifest, size = DeltaOutput(place, layout, plan).write(
            what="combine",
            readers=[delta.reader for delta in self.deltas],
            make_kernel=lambda encode: _Combine(
                parents,
                self.scales,
                found,
                [ChunkDecoder(d.manifest.codec, d.location) for d in self.deltas],
                encode,
                keeps_base=base is not None,
            ),
            tables=tables,
            found=[found.counts, found.norms],
            options=[self.scales],
            companions=first.read_companions(),
            describe=lambda: self._manifest(plan, parents, found),
            limits=resources.limits,
            dtypes=dtypes,
            scratch_bytes=sum_bytes(dtypes)
            + SCRATCH_BYTES
            + sum(ChunkMemory(d.manifest.codec, d.dtypes).decoding for d in self.deltas),
            progress=progress,
        )
        return replace(
            report,
            written_bytes=size,
            fingerprint=str(manifest.fingerprint),
            remainders=int(found.counts[:, 1].sum()),
        )

    def _shared_base(self) -> Identity | None:
        """The base that all deltas were made on, or None."""
        bases = [delta.manifest.base for delta in self.deltas]
        first = bases[0]
        same = first and all(base and base.fingerprint == first.fingerprint for base in bases)
        return first if same else None

    def _manifest(
        self,
        plan: Plan,
        parents: Sequence[Sequence[StoredTensor]],
        found: _Found,
    ) -> Manifest:
        first = self.deltas[0].manifest
        base = self._shared_base()
        records = []
        for job, stored in enumerate(parents):
            rows = slice(plan.first_rows[job], plan.first_rows[job + 1])
            record = stored[0].record
            changed, remainders = (int(total) for total in found.counts[rows].sum(axis=0))
            norms = Norms() if record.carried else fold(found.norms[rows])
            digests = found.tables.digests[rows, STORED]
            records.append(
                replace(
                    record,
                    base_shape=max(each.record.base_shape for each in stored),
                    changed=changed,
                    remainders=remainders,
                    exceptions=0,
                    base_digest=record.base_digest if base else None,
                    post_digest=None,
                    stored_digest=fold_tensor(record.stored, record.shape, digests),
                    delta_l2=norms.delta_l2,
                    base_l2=record.base_l2 if base else None,
                    delta_max=norms.delta_max,
                )
            )
        return Manifest(
            base=base,
            post=None,
            codec=self.codec,
            tensors=tuple(records),
            post_config=first.post_config,
            files=first.files,
            ancestors=tuple(self._ancestors()),
        )

    def _ancestors(self) -> list[Ancestor]:
        return [
            Ancestor(d.location, scale, d.manifest.fingerprint, d.manifest.base, d.manifest.post)
            for d, scale in zip(self.deltas, self.scales, strict=True)
        ]


@dataclass(frozen=True)
class _Found:
    """What the walk finds out about each chunk; rows are written by one worker each.

    counts: elements that are not zero, remainders. norms: see `tensors.norms`.
    """

    tables: Tables
    counts: NDArray[np.int64]
    norms: NDArray[np.float64]


@dataclass
class _Combine:
    """One worker's kernel: a chunk of each delta in, their sum out."""

    parents: Sequence[Sequence[StoredTensor]]
    scales: Sequence[float]
    found: _Found
    decoders: Sequence[ChunkDecoder]
    encode: ChunkEncoder
    keeps_base: bool

    def __post_init__(self) -> None:
        self._arithmetic = CpuArithmetic()

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        stored = self.parents[part.job]
        record = stored[0].record
        decoded = [
            decode(each, part.chunk, values, rest)
            for decode, each, values, rest in zip(
                self.decoders, stored, inputs[::2], inputs[1::2], strict=True
            )
        ]
        if self.keeps_base:
            self.found.tables.digests[part.row, BASE] = stored[0].digests[part.chunk, BASE]
        if record.carried:
            return self._carry(part, stored, [values for values, _ in decoded], out)
        terms = [
            Term(
                Operand(values, each.record.stored),
                scale,
                corrections.rest_at,
                corrections.rest,
                each.record.width,
            )
            for each, scale, (values, corrections) in zip(stored, self.scales, decoded, strict=True)
        ]
        total, corrections = self._arithmetic.combine(terms, Operand(out, record.stored))
        nothing = Operand(out[:0], total.dtype)
        measure_into(self.found.norms[part.row], total, nothing)
        changed = np.count_nonzero(total.data.view(f"<f{total.dtype.itemsize}"))
        self.found.counts[part.row] = changed, len(corrections.rest_at)
        return self.encode(part.row, out, record.stored, corrections)

    def _carry(
        self, part: Slice, stored: Sequence[StoredTensor], values: Sequence[Bytes], out: Bytes
    ) -> bytes:
        """The values of the last delta that changed the tensor, as apply would take them."""
        record: TensorRecord = stored[0].record
        out[:] = values[0]
        for each, data in zip(stored, values, strict=True):
            if each.record.changed and each.record.post == record.post:
                out[:] = data
                self.found.counts[part.row, 0] = part.count
        return self.encode(part.row, out, record.stored, None)
