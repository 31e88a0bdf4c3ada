"""A delta file as output: what compute, combine and convert have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from pipeline.deltas.chunks import ChunkEncoder, ChunkMemory, Tables
from pipeline.deltas.companions import MAX_COMPANION_BYTES
from pipeline.deltas.layout import DeltaLayout
from pipeline.deltas.manifest import Manifest
from pipeline.engine.plan import Plan
from pipeline.engine.work import Work
from pipeline.errors import NotACheckpoint
from pipeline.operations.outputs.places import Place
from pipeline.operations.outputs.signatures import put_signature
from pipeline.tensors.dtypes import DType
from pipeline.tensors.fingerprint import digest_bytes
from pipeline.units import format_bytes
from pipeline.version import TOOL


@dataclass(frozen=True)
class DeltaOutput:
    """A delta to be written. tables: filled by its encoders. memory: what its chunks take."""

    layout: DeltaLayout
    tables: Tables
    memory: ChunkMemory

    @classmethod
    def of(cls, layout: DeltaLayout, plan: Plan, dtypes: Iterable[DType]) -> Self:
        """The output of `plan`. dtypes: of the bases and posts that the delta is of."""
        stored = {tensor.dtype for tensor in layout.tensors}
        memory = ChunkMemory(layout.codec, stored.union(dtypes))
        return cls(layout, Tables.empty(plan.rows, layout.codec), memory)

    def encoder(self) -> ChunkEncoder:
        """What makes a worker's chunks."""
        return ChunkEncoder(self.layout.codec, self.tables)

    def write(
        self,
        place: Place,
        work: Work,
        companions: Mapping[str, bytes],
        describe: Callable[[], Manifest],
    ) -> tuple[Manifest, int]:
        """Walk `work` and publish the file; returns its manifest and its size in bytes.

        describe: makes the manifest, once the walk is done.
        Raises NotACheckpoint if the companions are larger than a reader would take.
        """
        if sum(map(len, companions.values())) > MAX_COMPANION_BYTES:
            raise NotACheckpoint(
                f"its tokenizer's files have more than {format_bytes(MAX_COMPANION_BYTES)}",
                where=place.location,
            )
        layout, setup = self.layout, place.setup
        work = replace(
            work,
            findings=(self.tables.digests, self.tables.lengths, *work.findings),
            options=(*work.options, layout),
            scratch_bytes=work.scratch_bytes + self.memory.encoding,
            left_bytes=self.memory.left,
        )
        with place.create(layout.offsets[-1]) as writer:
            tail = layout.tail(writer)
            journal = place.journal(work)
            setup.walker(
                work, setup.resources.limits, setup.progress,
                writers=layout.writers(writer), tail=tail, journal=journal,
            )  # fmt: skip
            manifest = describe()
            size = layout.finish(writer, tail, self.tables, companions, manifest)
            writer.label(labels_of(manifest))
            writer.commit()
            if journal is not None:
                journal.finish()
        if setup.signer is not None:
            name = place.name.rpartition("/")[2]
            signature = setup.signer.sign(name, digest_bytes(manifest.to_json()))
            put_signature(place.store, place.name, signature, overwrite=True)
        return manifest, size


def labels_of(manifest: Manifest) -> dict[str, str]:
    """What a store can show of a delta."""
    base = {"base": str(manifest.base.fingerprint)} if manifest.base else {}
    return {"kind": "delta", "fingerprint": str(manifest.fingerprint), **base, "tool": TOOL}
