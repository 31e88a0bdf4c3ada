"""compute: delta = post - base, streamed into one file that restores post bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack

from pipeline.checkpoints.adapters.adapted import notes_of
from pipeline.checkpoints.adapters.post import open_post
from pipeline.checkpoints.alignment import Pair
from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.config_policy import require_one_architecture
from pipeline.checkpoints.header import Tensor
from pipeline.checkpoints.kept_digests import KeptDigests, Rows
from pipeline.checkpoints.vocabulary_table import VocabularyTable
from pipeline.deltas.base_rows import BaseRows
from pipeline.deltas.format import BASE, CARRIED, DEFAULT_CODEC, POST, Codec, parse_codec
from pipeline.deltas.identity import identify
from pipeline.deltas.layout import DeltaLayout
from pipeline.deltas.manifest import Manifest, TensorRecord
from pipeline.deltas.pairing import Pairing
from pipeline.deltas.sampling import take_sample
from pipeline.engine.plan import Plan
from pipeline.engine.work import Work
from pipeline.operations.derivations import describe_sides
from pipeline.operations.kernels.findings import Findings
from pipeline.operations.kernels.subtract import SubtractKernel, describe_difference
from pipeline.operations.outputs.delta import DeltaOutput
from pipeline.operations.outputs.places import Place
from pipeline.operations.push import HubPush
from pipeline.operations.setup import Setup, Transferring
from pipeline.storage.base import Reader
from pipeline.tensors.arithmetic import subtract_bytes
from pipeline.tensors.dtypes import DType, parse_dtype
from pipeline.tensors.fingerprint import digest_bytes
from pipeline.tensors.norms import SCRATCH_BYTES


@dataclass(frozen=True, slots=True)
class ComputeReport:
    """What compute did, or with `dry_run` would do.

    written_bytes: the file's size; on a dry run that of its values, unpacked. download_bytes,
    upload_bytes, memory_bytes: as planned, see `Estimate`. fingerprint: the delta's. vocabulary: how
    base's rows were brought into post's order. pushed: the URL of the commit on the Hub. renamed, tied,
    only_post, left_out: see `NameNotes`. derived: which of base and post were not stored as they are
    read, and from what their values were made. notes: what else should be known of base and post.
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
    derived: Sequence[str] = ()
    pushed: str | None = None
    renamed: Sequence[str] = ()
    tied: Sequence[str] = ()
    only_post: Sequence[str] = ()
    left_out: Sequence[str] = ()
    download_bytes: int = 0
    upload_bytes: int = 0
    memory_bytes: int = 0
    vocabulary: VocabularyTable | None = None
    recalled_bytes: int | None = None
    notes: Sequence[str] = ()


def compute(
    base: str,
    post: str,
    output: str,
    *,
    dtype: str = "auto",
    codec: str = DEFAULT_CODEC,
    **options: Unpack[Transferring],
) -> ComputeReport:
    """Write post - base as the delta file `output`.

    base, post: locations of checkpoints. output: location of the delta, a plain name being one in the
    store. dtype: storage format of float tensors, "auto" being each post tensor's own; whatever it is,
    the file restores post exactly. codec: "rans" packs them, "none" leaves them as any reader of
    safetensors takes them. A signature goes beside the delta, as `output`.sig. options: see
    `Transferring`.
    Raises the errors of `pipeline.errors`; on any of them nothing appears under `output`, unless it was
    the push that failed: then the delta stays there.
    """
    form, storage = parse_codec(codec), parse_dtype(dtype)
    setup = Setup.of(options)
    place = Place.for_delta(output, setup).refuse_taken(is_model=False)
    hub = HubPush.wanted(setup)
    with (
        open_checkpoint(base, settings=setup.settings, headers_only=setup.dry_run) as base_model,
        open_post(post, base_model, settings=setup.settings, headers_only=setup.dry_run) as post_model,
    ):
        require_one_architecture(
            base_model.config,
            post_model.config,
            where=f"{base_model.location} and {post_model.location}",
            decided=("architectures",),  # post may have another head: it is carried whole
            noun="base",
        )
        run = Computation.prepare(base_model, post_model, storage, form, reads=not setup.dry_run)
        report = run.report(place)
        if setup.dry_run:
            return report
        known = run.known(setup.settings.digest_cache)
        manifest, size = run.write(place, known)
        report = replace(report, written_bytes=size, **_summary(manifest))
        if setup.settings.digest_cache:
            recalled = sum(model.nbytes for model in known.values())
            report = replace(report, recalled_bytes=recalled)
    return replace(report, pushed=hub.delta(output).pushed) if hub else report


@dataclass(frozen=True)
class Computation:
    """One difference, its checkpoints opened. pairs: in the order of the layout's tensors.

    base, post: as they were made to meet; see `Pairing`.
    """

    base: Checkpoint
    post: Checkpoint
    pairs: Sequence[Pair]
    layout: DeltaLayout
    plan: Plan
    met: Pairing

    @classmethod
    def prepare(
        cls,
        base: Checkpoint,
        post: Checkpoint,
        storage: DType | None,
        codec: Codec,
        *,
        reads: bool = False,
    ) -> Self:
        """What is to be done. Raises Mismatch, and NotACheckpoint for names that deltas keep.

        reads: whether weights may be read by now, see `align_base`.
        """
        met = Pairing.of(base, post, reads=reads)
        base, post = met.base, met.post
        stored = {tensor.name: (tensor, pair) for tensor, pair in _stored(met.pairs, storage)}
        layout = DeltaLayout.plan(
            [tensor for tensor, _ in stored.values()], list(post.companions), codec
        )
        ordered = [stored[tensor.name][1] for tensor in layout.tensors]
        first = len(post.readers)
        inputs = [(post.input(pair.name), base.input(pair.name, first)) for pair in ordered]
        return cls(base, post, ordered, layout, layout.fill(inputs), met)

    def report(self, place: Place) -> ComputeReport:
        """What is known before the run."""
        return ComputeReport(
            output=place.location,
            base=self.base.location,
            post=self.post.location,
            dry_run=place.setup.dry_run,
            tensors=len(self.pairs),
            elements=sum(pair.post.entry.count for pair in self.pairs),
            read_bytes=self.plan.read_bytes,
            notes=notes_of(self.post),
            written_bytes=self.layout.value_bytes,
            renamed=self.met.notes.renamed,
            tied=self.met.notes.tied,
            only_post=self.met.notes.only_post,
            left_out=self.met.notes.left_out,
            derived=describe_sides([("base", self.base.derived), ("post", self.post.derived)]),
            **asdict(place.estimate(self.plan, self._readers, self.layout.value_bytes)),
            vocabulary=self.met.aligned.table,
        )

    @property
    def _readers(self) -> list[Reader]:
        return [*self.post.readers, *self.base.readers]

    def known(self, digest_cache: Path | None) -> dict[int, KeptDigests]:
        """What is known of `BASE` and of `POST`, as an earlier run left it in `digest_cache`."""
        return {BASE: KeptDigests(self.base, digest_cache), POST: KeptDigests(self.post, digest_cache)}

    def write(self, place: Place, known: Mapping[int, KeptDigests]) -> tuple[Manifest, int]:
        """Write the delta; returns its manifest and its size in bytes."""
        stored = [tensor.dtype for tensor in self.layout.tensors]
        dtypes = {side.entry.dtype for pair in self.pairs for side in (pair.post, pair.base)}
        output = DeltaOutput.of(self.layout, self.plan, dtypes)
        found = Findings.beside(output.tables)
        arithmetic = place.setup.resources.arithmetic
        work = Work(
            title=f"compute {place.location}",
            plan=self.plan,
            readers=self._readers,
            make_kernel=lambda: SubtractKernel(
                self.pairs, stored, found, known, arithmetic(), output.encoder()
            ),
            findings=[found.counts, found.norms],
            scratch_bytes=subtract_bytes(dtypes.union(stored)) + SCRATCH_BYTES,
        )
        companions = self.post.read_companions()

        def describe() -> Manifest:
            for side, model in known.items():
                model.keep(partial(self._found, found, side))
            return self._manifest(describe_difference(found, self.plan, self.pairs, stored), companions)

        return output.write(place, work, companions, describe)

    def _found(self, found: Findings, side: int) -> dict[str, Rows]:
        """The digests of the chunks of base or of post, by tensor."""
        rows = found.tables.digests[:, side]
        return {pair.name: rows[self.plan.rows_of(job)] for job, pair in enumerate(self.pairs)}

    def _manifest(self, tensors: Sequence[TensorRecord], companions: Mapping[str, bytes]) -> Manifest:
        base_digests = {record.name: record.base_digest for record in tensors if record.base_digest}
        post_digests = {record.name: record.post_digest for record in tensors if record.post_digest}
        base, post = self.base, self.post
        return Manifest(
            base=identify(self.met.found[0], base, base_digests),
            post=identify(self.met.found[1], post, post_digests),
            codec=self.layout.codec,
            tensors=tensors,
            post_config=post.config,
            files={name: digest_bytes(content) for name, content in companions.items()},
            base_rows=BaseRows.of(self.met.aligned),
            base_sample=take_sample(base, tensors),
        )


def _stored(pairs: Sequence[Pair], storage: DType | None) -> Iterator[tuple[Tensor, Pair]]:
    """What is stored of each pair: a difference in the format `storage`, or post's own values."""
    for pair in pairs:
        entry = pair.post.entry
        if entry.dtype.is_float:
            yield Tensor(entry.name, storage or entry.dtype, entry.shape), pair
        else:
            yield Tensor(CARRIED + entry.name, entry.dtype, entry.shape), pair


def _summary(manifest: Manifest) -> dict[str, Any]:
    """What a report says of a finished delta."""
    return {
        "fingerprint": str(manifest.fingerprint),
        "base_fingerprint": str(manifest.base.known_by) if manifest.base else None,
        "post_fingerprint": str(manifest.post.known_by) if manifest.post else None,
        "changed": sum(record.changed for record in manifest.tensors),
        "remainders": sum(record.remainders for record in manifest.tensors),
        "exceptions": sum(record.exceptions for record in manifest.tensors),
        "carried": tuple(r.name for r in manifest.tensors if r.carried and r.changed),
    }
