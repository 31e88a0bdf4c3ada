"""Writing a delta file: what compute, combine and convert have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from pipeline.deltas.chunks import ChunkEncoder, ChunkMemory, Tables
from pipeline.deltas.companions import MAX_COMPANION_BYTES
from pipeline.deltas.layout import DeltaLayout
from pipeline.deltas.manifest import Manifest
from pipeline.deltas.signing import SUFFIX, Signer
from pipeline.engine.journal import Journal, run_key
from pipeline.engine.plan import Plan
from pipeline.engine.walk import Kernel, Limits, walk
from pipeline.errors import NotACheckpoint
from pipeline.operations.common import start_journal
from pipeline.progress import Progressing
from pipeline.settings import Settings
from pipeline.storage.base import Reader, Store, exists
from pipeline.storage.locations import parse_delta
from pipeline.storage.opening import open_parent
from pipeline.tensors.dtypes import DType
from pipeline.tensors.fingerprint import Digest, digest_bytes
from pipeline.units import format_bytes
from pipeline.version import TOOL


@dataclass(frozen=True)
class DeltaOutput:
    """A delta to be written: its place, its layout, and the plan that fills it."""

    place: DeltaPlace
    layout: DeltaLayout
    plan: Plan

    def write(
        self,
        *,
        what: str,
        readers: Sequence[Reader],
        make_kernel: Callable[[ChunkEncoder], Kernel],
        tables: Tables,
        found: Sequence[NDArray[Any]] = (),
        options: Sequence[Any] = (),
        companions: Mapping[str, bytes],
        describe: Callable[[], Manifest],
        limits: Limits,
        dtypes: Iterable[DType],
        scratch_bytes: int,
        progress: Progressing,
    ) -> tuple[Manifest, int]:
        """Walk the plan and publish the file; returns its manifest and its size in bytes.

        what: the operation. tables: filled by the encoders. found: what else the kernels fill, a row for
        each chunk. options: what the content depends on beside readers and layout. describe: the
        manifest, once the walk is done. dtypes: of bases and posts. scratch_bytes: what a kernel needs
        beside its encoder.
        """
        layout, place = self.layout, self.place
        if sum(map(len, companions.values())) > MAX_COMPANION_BYTES:
            raise NotACheckpoint(
                f"its tokenizer's files have more than {format_bytes(MAX_COMPANION_BYTES)}",
                where=place.location,
            )
        with (
            place.store.create(
                place.name, size_hint=layout.offsets[-1], overwrite=place.overwrite
            ) as writer,
            progress(f"{what} {place.location}", self.plan.moved_bytes) as advance,
        ):
            tail = layout.tail(writer)
            journal = place.journal(
                lambda: run_key(f"{what} {TOOL}", [*options, layout], readers, self.plan),
                [tables.digests, tables.lengths, *found],
            )
            stored = {tensor.dtype for tensor in layout.tensors}
            memory = ChunkMemory(layout.codec, stored.union(dtypes))
            walk(
                self.plan,
                readers=readers,
                writers=layout.writers(writer),
                make_kernel=lambda: make_kernel(ChunkEncoder(layout.codec, tables)),
                limits=limits,
                scratch_bytes=scratch_bytes + memory.encoding,
                advance=advance,
                tail=tail,
                left_bytes=memory.left,
                journal=journal,
            )
            manifest = describe()
            size = layout.finish(writer, tail, tables, companions, manifest)
            writer.label(labels_of(manifest))
            writer.commit()
            if journal is not None:
                journal.finish()
        place.sign(manifest)
        return manifest, size


@dataclass(frozen=True)
class DeltaPlace:
    """Where a delta is to be published."""

    location: str
    store: Store
    name: str
    overwrite: bool
    signer: Signer | None = None
    restart: bool = False

    @classmethod
    def open(
        cls,
        output: str,
        settings: Settings,
        *,
        overwrite: bool,
        signer: Signer | None = None,
        restart: bool = False,
    ) -> Self:
        """The place called `output`. Raises OutputExists, before anything is read, if it is taken.

        So does the signature of another delta that lies there, if there is to be one.
        """
        target = parse_delta(output)
        store, name = open_parent(target, settings)
        for taken, suffix in ((True, ""), (signer is not None, SUFFIX)):
            if taken and not overwrite and store.stat(name + suffix):
                raise exists(f"{target}{suffix}")
        return cls(str(target), store, name, overwrite, signer, restart)

    def journal(self, key: Callable[[], Digest], tables: Sequence[NDArray[Any]]) -> Journal | None:
        """The journal of the run that writes here; see `start_journal`."""
        signs = self.signer is not None
        return start_journal(self.store, self.name, key, tables, signs=signs, restart=self.restart)

    def sign(self, manifest: Manifest) -> None:
        """Put the signature beside the delta, if there is somebody to sign it.

        After the delta: in between it is not yet signed, or signed as something else, and refused.
        """
        if self.signer is None:
            return
        content = self.signer.sign(self.name.rpartition("/")[2], digest_bytes(manifest.to_json()))
        with self.store.create(self.name + SUFFIX, size_hint=len(content), overwrite=True) as writer:
            writer.write(0, content)
            writer.commit()


def labels_of(manifest: Manifest) -> dict[str, str]:
    """What a store can show of a delta."""
    base = {"base": str(manifest.base.fingerprint)} if manifest.base else {}
    return {"kind": "delta", "fingerprint": str(manifest.fingerprint), **base, "tool": TOOL}
