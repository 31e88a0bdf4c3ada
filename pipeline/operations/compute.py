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
from pipeline.deltas.chunks import ChunkEncoder, Tables
from pipeline.deltas.format import (
    BASE,
    CARRIED,
    DEFAULT_CODEC,
    POST,
    STORED,
    Codec,
    is_reserved,
    parse_codec,
)
from pipeline.deltas.layout import DeltaLayout
from pipeline.deltas.manifest import Identity, Manifest, TensorRecord
from pipeline.deltas.signing import Signer
from pipeline.engine.plan import Job, Plan, Slice
from pipeline.errors import NotACheckpoint
from pipeline.operations.common import DEFAULT_MEMORY, Resources, as_input, tokenizer_of
from pipeline.operations.delta_output import DeltaOutput, DeltaPlace
from pipeline.operations.push import HubPush
from pipeline.progress import Progressing, silent
from pipeline.settings import Settings
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Arithmetic, Operand, subtract_bytes
from pipeline.tensors.dtypes import Bytes, DType, parse_dtype
from pipeline.tensors.fingerprint import digest_bytes, digest_into, fold_checkpoint, fold_tensor
from pipeline.tensors.norms import SCRATCH_BYTES, Norms, measure_into
from pipeline.tensors.norms import fold as fold_norms


@dataclass(frozen=True, slots=True)
class ComputeReport:
    """What compute did, or with `dry_run` would do.

    written_bytes: the file's size; on a dry run that of its values, unpacked. fingerprint: the delta's.
    pushed: the URL of the commit on the Hub.
    """

    output: str
    base: str
    post: str
    dry_run: bool
    tensors: int
    elements: int
    read_bytes: int
    written_bytes: int
    fingerprint: str | None = None
    base_fingerprint: str | None = None
    post_fingerprint: str | None = None
    changed: int | None = None
    remainders: int | None = None
    exceptions: int | None = None
    carried: Sequence[str] = ()
    pushed: str | None = None


def compute(
    base: str,
    post: str,
    output: str,
    *,
    store: str | None = None,
    dtype: str = "auto",
    codec: str = DEFAULT_CODEC,
    device: str = "auto",
    hub_cache: str | None = None,
    memory: str | int = DEFAULT_MEMORY,
    workers: int | None = None,
    sign_key: str | None = None,
    tier: str | None = None,
    restart: bool = False,
    push_to_hub: str | None = None,
    private: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progressing = silent,
) -> ComputeReport:
    """Write post - base as the delta file `output`.

    base, post: locations of checkpoints. output: location of the delta, a plain name being one in the
    store. dtype: storage format of float tensors, "auto" being each post tensor's own; whatever it is,
    the file restores post exactly. hub_cache: whether weights go through the Hub's cache on the disk:
    "on", "off", or "auto", where there is room. memory: bound on buffers, whatever the models' size.
    sign_key: private key (PEM) whose signature goes beside the delta, as `output`.sig.
    tier: access tier of a blob. restart: whether to ignore what an interrupted run of this command left.
    push_to_hub: a repository that gets the finished delta too, on its branch `revision`; see `push`.
    Raises the errors of `pipeline.errors`; on any of them nothing appears under `output`, unless it was
    the push that failed: then the delta stays there.
    """
    form = parse_codec(codec)
    settings = Settings.load(store=store, tier=tier, hub_cache=hub_cache)
    resources = Resources.parse(memory=memory, workers=workers, device=device)
    storage = parse_dtype(dtype)
    signer = Signer.load(sign_key, settings.sign_password) if sign_key else None
    place = DeltaPlace.open(output, settings, overwrite=overwrite, signer=signer, restart=restart)
    hub = HubPush.open(
        push_to_hub, private=private, revision=revision, settings=settings, overwrite=overwrite
    )
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
        layout, ordered = _lay_out(pairs, post_model, storage, form)
        plan = _plan(layout, ordered, len(post_model.readers))
        report = ComputeReport(
            output=place.location,
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
        records = _Records.empty(plan.rows, form)
        stored = [tensor.dtype for tensor in layout.tensors]
        dtypes = {side.entry.dtype for pair in pairs for side in (pair.post, pair.base)}
        manifest, size = DeltaOutput(place, layout, plan).write(
            what="compute",
            readers=[*post_model.readers, *base_model.readers],
            make_kernel=lambda encode: _Subtract(
                ordered, stored, records, resources.arithmetic(), encode
            ),
            tables=records.tables,
            found=[records.counts, records.norms],
            companions={name: read_all(reader) for name, reader in post_model.companions.items()},
            describe=lambda: records.manifest(plan, ordered, stored, base_model, post_model, form),
            limits=resources.limits,
            dtypes=dtypes,
            scratch_bytes=subtract_bytes(dtypes.union(stored)) + SCRATCH_BYTES,
            progress=progress,
        )
        report = replace(report, written_bytes=size, **_summary(manifest))
    return replace(report, pushed=hub.delta(output).pushed) if hub else report


def _lay_out(
    pairs: Sequence[Pair], post: Checkpoint, storage: DType | None, codec: Codec
) -> tuple[DeltaLayout, list[Pair]]:
    """The delta file's layout, and the pairs in the order of its tensors."""
    reserved = [pair.name for pair in pairs if is_reserved(pair.name)]
    if reserved:
        raise NotACheckpoint(
            f"a tensor can't be called {reserved[0]!r}: safetensors and deltas keep such names "
            "for themselves",
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
    layout = DeltaLayout.plan([tensor for tensor, _ in by_name.values()], list(post.companions), codec)
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

    counts: changed elements, remainders, exceptions. norms: see `tensors.norms`.
    """

    tables: Tables
    counts: NDArray[np.int64]
    norms: NDArray[np.float64]

    @classmethod
    def empty(cls, rows: int, codec: Codec) -> _Records:
        """Records for `rows` chunks."""
        return cls(Tables.empty(rows, codec), np.zeros((rows, 3), np.int64), np.zeros((rows, 3)))

    def manifest(
        self,
        plan: Plan,
        pairs: Sequence[Pair],
        stored: Sequence[DType],
        base: Checkpoint,
        post: Checkpoint,
        codec: Codec,
    ) -> Manifest:
        """The manifest of the finished delta."""
        tensors = []
        for job, (pair, dtype) in enumerate(zip(pairs, stored, strict=True)):
            rows = slice(plan.first_rows[job], plan.first_rows[job + 1])
            tensors.append(self._record(pair, dtype, rows))
        base_digests = {record.name: record.base_digest for record in tensors if record.base_digest}
        post_digests = {record.name: record.post_digest for record in tensors if record.post_digest}
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
        digests = self.tables.digests[rows]
        base_chunks = -(-base.count // CHUNK_ELEMENTS)
        changed, remainders, exceptions = (int(total) for total in self.counts[rows].sum(axis=0))
        norms = fold_norms(self.norms[rows]) if post.dtype.is_float else Norms()
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
            delta_l2=norms.delta_l2,
            base_l2=norms.base_l2,
            delta_max=norms.delta_max,
        )


@dataclass
class _Subtract:
    """One worker's kernel: post and base in, the stored chunk out, corrections to the tail."""

    pairs: Sequence[Pair]
    stored: Sequence[DType]
    records: _Records
    arithmetic: Arithmetic
    encode: ChunkEncoder

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        post, base = inputs
        pair = self.pairs[part.job]
        digests = self.records.tables.digests[part.row]
        if len(base):  # else rows that only post has
            digest_into(digests[BASE], base.data)
        digest_into(digests[POST], post.data)
        corrections = None
        if pair.post.entry.dtype.is_float:
            after = Operand(post, pair.post.entry.dtype)
            before = Operand(base, pair.base.entry.dtype)
            changed, corrections = self.arithmetic.subtract(
                after, before, Operand(out, self.stored[part.job])
            )
            counts = (changed, len(corrections.rest_at), len(corrections.lost_at))
            measure_into(self.records.norms[part.row], after, before)
        else:
            out[:] = post
            counts = (_differing(post, base, pair), 0, 0)
        self.records.counts[part.row] = counts
        return self.encode(part.row, out, self.stored[part.job], corrections)


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
        "fingerprint": str(manifest.fingerprint),
        "base_fingerprint": str(manifest.base.fingerprint) if manifest.base else None,
        "post_fingerprint": str(manifest.post.fingerprint) if manifest.post else None,
        "changed": sum(record.changed for record in manifest.tensors),
        "remainders": sum(record.remainders for record in manifest.tensors),
        "exceptions": sum(record.exceptions for record in manifest.tensors),
        "carried": tuple(r.name for r in manifest.tensors if r.carried and r.changed),
    }
