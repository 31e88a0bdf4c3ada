"""convert: the same delta in the other form of the file, every digest checked on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from pipeline.deltas.chunks import ChunkDecoder, ChunkEncoder, Tables
from pipeline.deltas.delta import open_delta
from pipeline.deltas.format import STORED, parse_codec
from pipeline.deltas.stored import StoredTensor
from pipeline.engine.plan import Slice
from pipeline.engine.work import Work
from pipeline.operations.outputs.delta import DeltaOutput
from pipeline.operations.outputs.places import Place
from pipeline.operations.rewrite import lay_out, plan_rewrite
from pipeline.operations.setup import Setup, Writing
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


def convert(delta: str, output: str, *, codec: str, **options: Unpack[Writing]) -> ConvertReport:
    """Write the delta at `delta` as `output`, packed by `codec`.

    Nothing that it says or holds changes but its form; a signature belongs to one form and is not taken
    along. options: see `Writing`. Raises the errors of `pipeline.errors`.
    """
    form = parse_codec(codec)
    setup = Setup.of(options)
    place = Place.for_delta(output, setup).refuse_taken(is_model=False)
    with open_delta(delta, settings=setup.settings) as source:
        layout, stored = lay_out([each.record for each in source.tensors.values()], source, form)
        plan = plan_rewrite(layout, [[each] for each in stored], [source])
        report = ConvertReport(
            delta=source.location,
            output=place.location,
            dry_run=setup.dry_run,
            codec=form,
            tensors=len(stored),
            read_bytes=plan.read_bytes,
            written_bytes=None,
            fingerprint=str(source.manifest.fingerprint),
        )
        if setup.dry_run:
            return report
        result = DeltaOutput.of(layout, plan, source.dtypes)
        work = Work(
            title=f"convert {place.location}",
            plan=plan,
            readers=[source.reader],
            make_kernel=lambda: _Recode(stored, result.tables, source.decoder(), result.encoder()),
            scratch_bytes=source.decoding_bytes,
        )
        records = [each.record for each in stored]
        _, size = result.write(
            place,
            work,
            source.read_companions(),
            lambda: replace(source.manifest, codec=form, tensors=records),
        )
        return replace(report, written_bytes=size)


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
