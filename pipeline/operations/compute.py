"""compute: delta = post - base, streamed into one file that restores post bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.alignment import Pair, check_vocabulary, pair_up
from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.files import read_all
from pipeline.checkpoints.header import Tensor
from pipeline.deltas.format import BASE, CARRIED, POST, RESERVED, STORED, pack
from pipeline.deltas.layout import DeltaLayout, digests_table
from pipeline.deltas.manifest import Identity, Manifest, TensorRecord
from pipeline.engine.plan import Job, Plan, Slice
from pipeline.engine.tail import OrderedTail
from pipeline.engine.walk import walk
from pipeline.errors import NotACheckpoint, UsageError
from pipeline.operations.common import DEFAULT_MEMORY, Resources, as_input, tokenizer_of
from pipeline.progress import Progressing, silent
from pipeline.settings import Settings
from pipeline.storage.base import exists
from pipeline.storage.locations import open_parent, parse_delta
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Arithmetic, Operand, scratch_bytes
from pipeline.tensors.dtypes import Bytes, DType, parse_dtype
from pipeline.tensors.fingerprint import digest_bytes, digest_into, fold_checkpoint, fold_tensor

CODECS = ("none",)


@dataclass(frozen=True, slots=True)
class ComputeReport:
    """What compute did, or with `dry_run` would do. Byte counts are those of tensors and corrections."""

    output: str
    base: str
    post: str
    dry_run: bool
    tensors: int
    elements: int
    read_bytes: int
    written_bytes: int
    base_fingerprint: str | None = None
    post_fingerprint: str | None = None
    changed: int | None = None
    remainders: int | None = None
    exceptions: int | None = None
    carried: Sequence[str] = ()


def compute(
    base: str,
    post: str,
    output: str,
    *,
    store: str | None = None,
    dtype: str = "auto",
    codec: str = "none",
    device: str = "auto",
    memory: str | int = DEFAULT_MEMORY,
    workers: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progressing = silent,
) -> ComputeReport:
    """Write post - base as the delta file `output`.

    base, post: locations of checkpoints. output: location of the delta, a plain name being one in the
    store. dtype: storage format of float tensors, "auto" being each post tensor's own; whatever it is,
    the file restores post exactly. memory: bound on buffers, whatever the models' size.
    Raises the errors of `pipeline.errors`; on any of them nothing appears under `output`.
    """
    if codec not in CODECS:
        raise UsageError(f"{codec!r} is not a codec", hint=f"known: {', '.join(CODECS)}")
    settings = Settings.load(store=store)
    resources = Resources.parse(memory=memory, workers=workers, device=device)
    storage = parse_dtype(dtype)
    target = parse_delta(output)
    destination, name = open_parent(target, settings)
    if not overwrite and destination.stat(name):
        raise exists(str(target))  # before anything is downloaded
    with (
        open_checkpoint(base, settings=settings, headers_only=dry_run) as base_model,
        open_checkpoint(post, settings=settings, headers_only=dry_run) as post_model,
    ):
        pairs = pair_up(base_model, post_model)
        check_vocabulary(
            tokenizer_of(base_model),
            tokenizer_of(post_model),
            where=f"{base_model.location} and {post_model.location}",
        )
        layout, ordered = _lay_out(pairs, post_model, storage)
        plan = _plan(layout, ordered, len(post_model.readers))
        report = ComputeReport(
            output=str(target),
            base=base_model.location,
            post=post_model.location,
            dry_run=dry_run,
            tensors=len(pairs),
            elements=sum(pair.post.entry.count for pair in pairs),
            read_bytes=plan.read_bytes,
            written_bytes=plan.written_bytes,
        )
        if dry_run:
            return report
        records = _Records.empty(plan.rows)
        with (
            destination.create(name, size_hint=layout.offsets[-1], overwrite=overwrite) as writer,
            progress(f"compute {target}", plan.moved_bytes) as advance,
        ):
            tail = OrderedTail(writer, layout.offsets[-1])
            stored = [tensor.dtype for tensor in layout.tensors]
            entries = [side.entry for pair in pairs for side in (pair.post, pair.base)]
            walk(
                plan,
                readers=[*post_model.readers, *base_model.readers],
                writers=[writer],
                make_kernel=lambda: _Subtract(ordered, stored, records, resources.arithmetic()),
                limits=resources.limits,
                scratch_bytes=scratch_bytes(entry.dtype for entry in entries),
                advance=advance,
                tail=tail,
            )
            manifest = records.manifest(plan, ordered, stored, base_model, post_model, codec)
            layout.finish(
                writer,
                tail,
                lengths=records.lengths,
                digests=records.digests,
                companions={n: read_all(reader) for n, reader in post_model.companions.items()},
                manifest=manifest.to_json(),
            )
            writer.commit()
        return replace(report, **_summary(manifest))


def _lay_out(
    pairs: Sequence[Pair], post: Checkpoint, storage: DType | None
) -> tuple[DeltaLayout, list[Pair]]:
    """The delta file's layout, and the pairs in the order of its tensors."""
    reserved = [pair.name for pair in pairs if pair.name.startswith(RESERVED)]
    if reserved:
        raise NotACheckpoint(
            f"tensor {reserved[0]!r} has a name that delta files keep for themselves",
            where=post.location,
        )
    by_name = {}
    for pair in pairs:
        entry = pair.post.entry
        if entry.dtype.is_float:
            by_name[entry.name] = (Tensor(entry.name, storage or entry.dtype, entry.shape), pair)
        else:
            by_name[CARRIED + entry.name] = (
                Tensor(CARRIED + entry.name, entry.dtype, entry.shape),
                pair,
            )
    companions = {name: reader.nbytes for name, reader in post.companions.items()}
    layout = DeltaLayout.plan([tensor for tensor, _ in by_name.values()], companions)
    return layout, [by_name[tensor.name][1] for tensor in layout.tensors]


def _plan(layout: DeltaLayout, pairs: Sequence[Pair], post_readers: int) -> Plan:
    """One job per stored tensor; its inputs are post and base."""
    return Plan(
        [
            Job(
                0,
                offset,
                tensor.dtype.itemsize,
                tensor.count,
                (as_input(pair.post), as_input(pair.base, post_readers)),
            )
            for tensor, pair, offset in zip(layout.tensors, pairs, layout.offsets[:-1], strict=True)
        ]
    )


@dataclass(frozen=True)
class _Records:
    """What the walk finds out about each chunk; rows are written by one worker each.

    lengths: bytes of corrections. counts: changed elements, remainders, exceptions.
    """

    digests: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, rows: int) -> _Records:
        """Records for `rows` chunks."""
        return cls(digests_table(rows), np.zeros(rows, np.int64), np.zeros((rows, 3), np.int64))

    def manifest(
        self,
        plan: Plan,
        pairs: Sequence[Pair],
        stored: Sequence[DType],
        base: Checkpoint,
        post: Checkpoint,
        codec: str,
    ) -> Manifest:
        """The manifest of the finished delta."""
        tensors = []
        for job, (pair, dtype) in enumerate(zip(pairs, stored, strict=True)):
            rows = slice(plan.first_rows[job], plan.first_rows[job + 1])
            tensors.append(self._record(pair, dtype, rows))
        post_digests = {record.name: record.post_digest for record in tensors}
        base_digests = {record.name: record.base_digest for record in tensors}
        return Manifest(
            base=Identity(base.location, base.revision, fold_checkpoint(base_digests)),
            post=Identity(post.location, post.revision, fold_checkpoint(post_digests)),
            codec=codec,
            tensors=tensors,
            post_config=post.config,
            files={name: digest_bytes(read_all(file)) for name, file in post.companions.items()},
        )

    def _record(self, pair: Pair, stored: DType, rows: slice) -> TensorRecord:
        post, base = pair.post.entry, pair.base.entry
        digests = self.digests[rows]
        base_chunks = -(-base.count // CHUNK_ELEMENTS)
        changed, remainders, exceptions = (int(total) for total in self.counts[rows].sum(axis=0))
        return TensorRecord(
            name=pair.name,
            shape=post.shape,
            base_shape=base.shape,
            stored=stored,
            base=base.dtype,
            post=post.dtype,
            changed=changed,
            remainders=remainders,
            exceptions=exceptions,
            base_digest=fold_tensor(base.dtype, base.shape, digests[:base_chunks, BASE]),
            post_digest=fold_tensor(post.dtype, post.shape, digests[:, POST]),
            stored_digest=fold_tensor(stored, post.shape, digests[:, STORED]),
        )


@dataclass
class _Subtract:
    """One worker's kernel: post and base in, the stored chunk out, corrections to the tail."""

    pairs: Sequence[Pair]
    stored: Sequence[DType]
    records: _Records
    arithmetic: Arithmetic

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        post, base = inputs
        pair = self.pairs[part.job]
        digests = self.records.digests[part.row]
        digest_into(digests[BASE], base.data)
        digest_into(digests[POST], post.data)
        if pair.post.entry.dtype.is_float:
            changed, corrections = self.arithmetic.subtract(
                Operand(post, pair.post.entry.dtype),
                Operand(base, pair.base.entry.dtype),
                Operand(out, self.stored[part.job]),
            )
            payload = pack(corrections)
            counts = (changed, len(corrections.rest_at), len(corrections.lost_at))
        else:
            out[:] = post
            payload = b""
            counts = (_differing(post, base, pair), 0, 0)
        digest_into(digests[STORED], out.data, payload)
        self.records.lengths[part.row] = len(payload)
        self.records.counts[part.row] = counts
        return payload


def _differing(post: Bytes, base: Bytes, pair: Pair) -> int:
    """How many elements of a carried tensor differ or are new; all of them if the dtype does."""
    ours, theirs = pair.post.entry.dtype, pair.base.entry.dtype
    count, known = len(post) // ours.itemsize, len(base) // theirs.itemsize
    if ours != theirs:
        return count
    same = np.count_nonzero(post.view(ours.bits)[:known] == base.view(ours.bits))
    return count - int(same)


def _summary(manifest: Manifest) -> dict[str, Any]:
    """What a report says of a finished delta."""
    return {
        "base_fingerprint": str(manifest.base.fingerprint),
        "post_fingerprint": str(manifest.post.fingerprint),
        "changed": sum(record.changed for record in manifest.tensors),
        "remainders": sum(record.remainders for record in manifest.tensors),
        "exceptions": sum(record.exceptions for record in manifest.tensors),
        "carried": tuple(r.name for r in manifest.tensors if r.carried and r.changed),
    }
