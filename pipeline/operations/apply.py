"""apply: new post = new base + the sum of scale * delta, streamed into a complete model folder.

Two cases are told apart, and the report says which one it was. *Same base*: one delta at scale 1 onto
the very base it was made on. Then post comes back bit for bit, and every chunk of the result is checked
against post's digest on the way. *Another base*: the formula in float32 (or float64), rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.alignment import check_vocabulary
from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.output import SHARD_BYTES, publishing_order
from pipeline.deltas.chunks import ChunkDecoder, ChunkMemory
from pipeline.deltas.delta import Delta, StoredTensor, open_delta
from pipeline.deltas.format import BASE
from pipeline.deltas.signing import Signer, Verifier
from pipeline.engine.journal import Journal, run_key
from pipeline.engine.walk import walk
from pipeline.errors import UsageError
from pipeline.operations.common import (
    DEFAULT_MEMORY,
    Resources,
    find_signature,
    start_journal,
    tokenizer_of,
)
from pipeline.operations.fit import SumPlan, fit, plan_sum
from pipeline.operations.push import HubPush
from pipeline.operations.release import Release, other_files
from pipeline.operations.sum_kernel import AddKernel, Found, NotTheSameBase
from pipeline.operations.verify_delta import check_form
from pipeline.progress import Progressing, silent
from pipeline.settings import Settings
from pipeline.storage.base import FolderWriter, exists
from pipeline.storage.locations import parse_delta, parse_output_model
from pipeline.storage.opening import open_parent
from pipeline.tensors.arithmetic import (
    CHUNK_ELEMENTS,
    sum_bytes,
)
from pipeline.tensors.dtypes import F64, DType, parse_dtype, torch_name
from pipeline.tensors.fingerprint import DIGEST_BYTES, Digest, digest_bytes, digest_into, fold_checkpoint
from pipeline.units import parse_bytes
from pipeline.version import TOOL

SAME_BASE = "same base, restored and verified bit for bit"
ANOTHER_BASE = "another base, the formula rounded once"
_PROBES = 8  # chunks that are compared before the run to tell which case it is


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What apply did, or with `dry_run` would do.

    case: `SAME_BASE` or `ANOTHER_BASE`. nonfinite: elements of the result that are NaN or infinite.
    base_distance: |new base - old base| / |old base|, if the old base was given.
    carried: tensors taken whole from post because they are not float and differ from its base. pushed:
    the URL of the commit on the Hub.
    """

    output: str
    base: str
    deltas: Sequence[tuple[str, float]]
    dry_run: bool
    case: str
    tensors: int
    elements: int
    read_bytes: int
    written_bytes: int
    files: Sequence[str]
    fingerprint: str | None = None
    base_fingerprint: str | None = None
    nonfinite: int | None = None
    base_distance: float | None = None
    carried: Sequence[str] = ()
    config_differences: Sequence[str] = ()
    pushed: str | None = None


def apply(
    base: str,
    deltas: Sequence[str | tuple[str, float]],
    output: str,
    *,
    scale: float = 1.0,
    store: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    hub_cache: str | None = None,
    memory: str | int = DEFAULT_MEMORY,
    workers: int | None = None,
    shard_size: str | int = SHARD_BYTES,
    old_base: str | None = None,
    key: str | None = None,
    require_signature: bool = False,
    sign_key: str | None = None,
    tier: str | None = None,
    restart: bool = False,
    push_to_hub: str | None = None,
    private: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progressing = silent,
) -> ApplyReport:
    """Write base + the sum of scale * delta as the model folder `output`.

    base: location of the checkpoint that receives the post-training. deltas: locations, or pairs of
    location and scale; `scale` counts where none is given. dtype: format of the result's float tensors,
    "auto" being the new base's (post's, where its very base was given). old_base: the base
    that the first delta was made on, to say how far the new one is from it. key: public key or
    certificate (PEM) by which every delta must be signed. sign_key: private key (PEM) that signs the
    result. hub_cache: see `compute`. memory: bound on buffers. tier: access tier of blobs. restart:
    whether to ignore what an interrupted run of this command left. push_to_hub: a repository that gets
    the finished folder too, on its branch `revision`; see `push`.
    Raises the errors of `pipeline.errors`; on any of them nothing appears under `output`, unless it was
    the push that failed: then the folder stays there.
    """
    settings = Settings.load(store=store, tier=tier, hub_cache=hub_cache)
    resources = Resources.parse(memory=memory, workers=workers, device=device)
    form = parse_dtype(dtype)
    shard_bytes = parse_bytes(shard_size)
    target = parse_output_model(output)
    wanted = [(each, scale) if isinstance(each, str) else each for each in deltas]
    if not wanted:
        raise UsageError("no delta is given", hint="add --delta NAME")
    if any(not math.isfinite(factor) for _, factor in wanted):
        raise UsageError("a scale must be a finite number", hint="for example --scale 0.8")
    if require_signature and key is None:
        raise UsageError("a signature can't be checked without a key", hint="add --key KEY.pem")
    verifier = Verifier.load(key) if key else None
    signer = Signer.load(sign_key, settings.sign_password) if sign_key else None
    destination, name = open_parent(target, settings)
    if not overwrite and destination.has_folder(name):
        raise exists(str(target))  # before anything is downloaded
    hub = HubPush.open(
        push_to_hub, private=private, revision=revision, settings=settings, overwrite=overwrite
    )
    with ExitStack() as stack:
        model = stack.enter_context(open_checkpoint(base, settings=settings, headers_only=dry_run))
        opened = [stack.enter_context(open_delta(name, settings=settings)) for name, _ in wanted]
        _check_signatures(opened, wanted, settings, verifier)
        _check_vocabularies(model, opened)
        scales = [factor for _, factor in wanted]
        old = stack.enter_context(open_checkpoint(old_base, settings=settings)) if old_base else None
        if old is not None:
            check_form(opened[0], old, BASE)
        run = _Run(model, old, opened, scales, form, shard_bytes, resources, signer)
        same_base = run.looks_like_same_base()
        begin = partial(start_journal, destination, name, signs=signer is not None, restart=restart)
        while True:
            layout = run.plan(same_base=same_base)
            report = run.report(str(target), layout, same_base=same_base)
            if dry_run:
                return replace(report, dry_run=True)
            size = report.written_bytes
            try:
                with destination.create_folder(name, size_hint=size, overwrite=overwrite) as folder:
                    report = run.write(folder, layout, report, progress, begin, same_base=same_base)
                break
            except NotTheSameBase:
                same_base = False  # identical where it was probed, different elsewhere: begin again
    return replace(report, pushed=hub.model(output).pushed) if hub else report


def _check_vocabularies(base: Checkpoint, deltas: Sequence[Delta]) -> None:
    """All tokenizers must agree, for rows are aligned by position."""
    for delta in deltas:
        theirs = delta.read_companion("tokenizer.json") if "tokenizer.json" in delta.companions else None
        where = f"{base.location} and {delta.location}"
        check_vocabulary(tokenizer_of(base), theirs, where=where)


def _check_signatures(
    deltas: Sequence[Delta],
    wanted: Sequence[tuple[str, float]],
    settings: Settings,
    verifier: Verifier | None,
) -> None:
    """Each delta must be signed by the verifier's key, if there is one."""
    if verifier is None:
        return
    for delta, (text, _) in zip(deltas, wanted, strict=True):
        store, name = open_parent(parse_delta(text), settings)
        signature = find_signature(store, name)
        verifier.verify(signature, delta.manifest_digest, where=delta.location)


@dataclass(frozen=True)
class _Run:
    """One sum, its inputs opened."""

    base: Checkpoint
    old: Checkpoint | None
    deltas: Sequence[Delta]
    scales: Sequence[float]
    dtype: DType | None
    shard_bytes: int
    resources: Resources
    signer: Signer | None

    def plan(self, *, same_base: bool) -> SumPlan:
        """The layout of the result. Raises Mismatch."""
        fitted = fit(self.base, self.deltas, dtype=self.dtype, as_post=same_base)
        return plan_sum(self.base, self.old, self.deltas, fitted, shard_bytes=self.shard_bytes)

    @staticmethod
    def _dtypes(layout: SumPlan) -> Iterator[DType]:
        """The formats that take part in the arithmetic."""
        for item in layout.tensors:
            yield from (item.base.dtype, item.result.dtype)
            yield from (stored.record.stored for stored in item.stored)
            yield from (stored.record.width for stored in item.stored if stored.record.width == F64)

    def looks_like_same_base(self) -> bool:
        """Whether one delta goes whole onto what seems to be the base it was made on.

        A few chunks are compared with their digests here; all of them are while the result is written.
        """
        if len(self.deltas) != 1 or self.scales[0] != 1.0 or not self.deltas[0].manifest.post:
            return False
        tensors = self.deltas[0].tensors
        if set(tensors) != set(self.base.tensors):
            return False  # `fit` will say what is wrong
        for name, stored in tensors.items():
            entry, record = self.base.tensors[name].entry, stored.record
            if (entry.shape, entry.dtype) != (record.base_shape, record.base):
                return False
            if self.dtype not in (None, record.post) and record.post.is_float:
                return False
        filled = [name for name, stored in tensors.items() if len(stored.digests)]
        probed = filled[:: max(1, len(filled) // _PROBES)]
        return all(self._first_chunk_matches(name, tensors[name]) for name in probed)

    def _first_chunk_matches(self, name: str, stored: StoredTensor) -> bool:
        source = self.base.tensors[name]
        size = min(source.entry.count, CHUNK_ELEMENTS) * source.entry.dtype.itemsize
        data = np.empty(size, np.uint8)
        self.base.readers[source.file].read_into(source.entry.offset, data.data)
        found = np.empty(DIGEST_BYTES, np.uint8)
        digest_into(found, data.data)
        return bool(np.array_equal(found, stored.digests[0, BASE]))

    def report(self, output: str, layout: SumPlan, *, same_base: bool) -> ApplyReport:
        """What is known before the run."""
        return ApplyReport(
            output=output,
            base=self.base.location,
            deltas=[(d.location, s) for d, s in zip(self.deltas, self.scales, strict=True)],
            dry_run=False,
            case=SAME_BASE if same_base else ANOTHER_BASE,
            tensors=len(layout.tensors),
            elements=sum(item.result.count for item in layout.tensors),
            read_bytes=layout.plan.read_bytes,
            written_bytes=sum(shard.nbytes for shard in layout.shards),
            files=[shard.name for shard in layout.shards],
        )

    def write(
        self,
        folder: FolderWriter,
        layout: SumPlan,
        report: ApplyReport,
        progress: Progressing,
        begin: Callable[[Callable[[], Digest], Sequence[NDArray[Any]]], Journal | None],
        *,
        same_base: bool,
    ) -> ApplyReport:
        """Write the whole folder and publish it."""
        writers = [folder.create(shard.name, size_hint=shard.nbytes) for shard in layout.shards]
        for writer, shard in zip(writers, layout.shards, strict=True):
            writer.write(0, shard.header)
        found = Found.empty(layout.plan.rows)
        readers = [
            *self.base.readers,
            *(self.old.readers if self.old else ()),
            *(delta.reader for delta in self.deltas),
        ]

        def key() -> Digest:
            headers = [digest_bytes(shard.header) for shard in layout.shards]
            return run_key(f"apply {TOOL}", [self.scales, same_base, headers], readers, layout.plan)

        journal = begin(key, [found.base, found.result, found.nonfinite, found.distance])
        with progress(f"apply {report.output}", layout.plan.moved_bytes) as advance:
            walk(
                layout.plan,
                readers=readers,
                writers=writers,
                make_kernel=lambda: AddKernel(
                    layout.tensors,
                    self.deltas,
                    self.scales,
                    found,
                    self.resources.arithmetic(),
                    [ChunkDecoder(d.manifest.codec, d.location) for d in self.deltas],
                    same_base,
                ),
                limits=self.resources.limits,
                scratch_bytes=sum_bytes(self._dtypes(layout))
                + sum(ChunkMemory(d.manifest.codec, d.dtypes).decoding for d in self.deltas),
                advance=advance,
                journal=journal,
            )
        release = Release(self.base, self.deltas, self.scales, layout, same_base, torch_name(self.dtype))
        fingerprints = release.fingerprints(found.base, found.result)
        finished = replace(
            report,
            **release.summary(fingerprints, int(found.nonfinite.sum())),
            base_distance=found.base_distance if self.old else None,
        )
        labels = {
            "kind": "model",
            "fingerprint": str(fold_checkpoint(fingerprints.result)),
            "tool": TOOL,
        }
        for writer in writers:
            writer.label(labels)
            writer.commit()
        names = list(report.files)
        for name, content in other_files(release, finished, fingerprints, self.signer).items():
            names.append(name)
            with folder.create(name, size_hint=len(content)) as writer:
                writer.write(0, content)
                writer.commit()
        folder.publish(publishing_order(names))
        if journal is not None:
            journal.finish()
        return replace(finished, files=names)
