"""convert: the same delta in the other form of the file, every digest checked on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.checkpoints.header import Tensor
from pipeline.deltas.chunks import ChunkDecoder, ChunkEncoder, ChunkMemory, Tables
from pipeline.deltas.delta import Delta, StoredTensor, open_delta
from pipeline.deltas.format import CARRIED, STORED, Codec, parse_codec
from pipeline.deltas.layout import DeltaLayout
from pipeline.deltas.manifest import TensorRecord
from pipeline.deltas.signing import Signer
from pipeline.engine.plan import Job, Plan, Slice
from pipeline.operations.common import DEFAULT_MEMORY, Resources
from pipeline.operations.delta_output import DeltaOutput, DeltaPlace
from pipeline.progress import Progressing, silent
from pipeline.settings import Settings
from pipeline.tensors.dtypes import Bytes


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What convert did, or with `dry_run` would do. fingerprint: the delta's, in both forms the same."""

    delta: str
    output: str
    dry_run: bool
    codec: str
    tensors: int
    read_bytes: int
    written_bytes: int | None
    fingerprint: str


def convert(
    delta: str,
    output: str,
    *,
    codec: str,
    store: str | None = None,
    memory: str | int = DEFAULT_MEMORY,
    workers: int | None = None,
    sign_key: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progressing = silent,
) -> ConvertReport:
    """Write the delta at `delta` as `output`, packed by `codec`.

    Nothing that it says or holds changes but its form; a signature belongs to one form and is not taken
    along. Raises the errors of `pipeline.errors`.
    """
    form = parse_codec(codec)
    settings = Settings.load(store=store)
    resources = Resources.parse(memory=memory, workers=workers, device="cpu")
    signer = Signer.load(sign_key, settings.sign_password) if sign_key else None
    place = DeltaPlace.open(output, settings, overwrite=overwrite, signer=signer)
    with open_delta(delta, settings=settings) as source:
        layout, stored = lay_out([each.record for each in source.tensors.values()], source, form)
        plan = plan_rewrite(layout, [[each] for each in stored], [source])
        report = ConvertReport(
            delta=source.location,
            output=place.location,
            dry_run=dry_run,
            codec=form,
            tensors=len(stored),
            read_bytes=plan.read_bytes,
            written_bytes=None,
            fingerprint=str(source.manifest.fingerprint),
        )
        if dry_run:
            return report
        tables = Tables.empty(plan.rows, form)
        _, size = DeltaOutput(place, layout, plan).write(
            what="convert",
            readers=[source.reader],
            make_kernel=lambda encode: _Recode(
                stored, tables, ChunkDecoder(source.manifest.codec, source.location), encode
            ),
            tables=tables,
            companions=source.read_companions(),
            describe=lambda: replace(
                source.manifest, codec=form, tensors=[each.record for each in stored]
            ),
            limits=resources.limits,
            dtypes=source.dtypes,
            scratch_bytes=ChunkMemory(source.manifest.codec, source.dtypes).decoding,
            progress=progress,
        )
        return replace(report, written_bytes=size)


def lay_out(
    records: Sequence[TensorRecord], source: Delta, codec: Codec
) -> tuple[DeltaLayout, list[StoredTensor]]:
    """The layout of a delta with `records`, and the tensors of `source` in its order."""
    names = {CARRIED + record.name if record.carried else record.name: record for record in records}
    tensors = [Tensor(name, record.stored, record.shape) for name, record in names.items()]
    layout = DeltaLayout.plan(tensors, list(source.companions), codec)
    return layout, [source.tensors[names[tensor.name].name] for tensor in layout.tensors]


def plan_rewrite(
    layout: DeltaLayout, stored: Sequence[Sequence[StoredTensor]], deltas: Sequence[Delta]
) -> Plan:
    """One job per tensor of `layout`; its inputs are the two parts of each delta's tensor."""
    jobs = []
    for tensor, offset, parents in zip(layout.tensors, layout.offsets[:-1], stored, strict=True):
        inputs = [
            part
            for number, (delta, each) in enumerate(zip(deltas, parents, strict=True))
            for part in delta.inputs(each, number)
        ]
        jobs.append(Job(0, offset, tensor.dtype.itemsize, tensor.count, tuple(inputs)))
    return Plan(jobs)


@dataclass
class _Recode:
    """One worker's kernel: a chunk in one form in, in the other out."""

    stored: Sequence[StoredTensor]
    tables: Tables
    decode: ChunkDecoder
    encode: ChunkEncoder

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        item = self.stored[part.job]
        values, corrections = self.decode(item, part.chunk, *inputs)
        out[:] = values
        self.tables.digests[part.row, :STORED] = item.digests[part.chunk, :STORED]
        carried = item.record.carried
        return self.encode(part.row, out, item.record.stored, None if carried else corrections)
