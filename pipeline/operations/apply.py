"""apply: new post = new base + the sum of scale * delta, streamed into a complete model folder.

A delta may be stored, or a difference of two checkpoints that is made on the way and never written; the
result is the same. Two cases are told apart, and the report says which one it was. *Same base*: one
delta at scale 1 onto the very base it was made on. Then post comes back bit for bit, and every chunk of
the result is checked against post's digest on the way. *Another base*: the formula in float32 (or
float64), rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from typing import Unpack

from pipeline.checkpoints.kept_digests import KeptDigests
from pipeline.checkpoints.output import SHARD_BYTES
from pipeline.engine.work import Work
from pipeline.operations.arguments import Difference, ScaledAddend, scaled
from pipeline.operations.fit import SumPlan
from pipeline.operations.fusion.choice import Fusion
from pipeline.operations.kernels.add import Adding, AddKernel, Found, NotTheSameBase
from pipeline.operations.lineage.figures import Lineage
from pipeline.operations.lineage.probing import probe_lineage
from pipeline.operations.outputs.model import Beside, write_model
from pipeline.operations.outputs.places import Place
from pipeline.operations.outputs.release import other_files
from pipeline.operations.outputs.report import ANOTHER_BASE, SAME_BASE, ApplyReport
from pipeline.operations.outputs.signatures import load_verifier
from pipeline.operations.overflow import refuse_overflow, tensors_with
from pipeline.operations.push import HubPush
from pipeline.operations.setup import Setup
from pipeline.operations.sum import Applying, Form, Inputs, Sum
from pipeline.tensors import movements, norms
from pipeline.tensors.arithmetic import sum_bytes
from pipeline.tensors.dtypes import F64, DType


def apply(
    base: str,
    deltas: Sequence[str | Difference | ScaledAddend],
    output: str,
    *,
    scale: float = 1.0,
    dtype: str = "auto",
    shard_size: str | int = SHARD_BYTES,
    old_base: str | None = None,
    take_config: Mapping[str, str] | Sequence[str] | None = None,
    allow_unrelated: bool = False,
    key: str | None = None,
    require_signature: bool = False,
    **options: Unpack[Applying],
) -> ApplyReport:
    """Write base + the sum of scale * delta as the model folder `output`.

    base: location of the checkpoint that receives the post-training. deltas: locations, or pairs of
    location and scale; `scale` counts where none is given. A `Difference` may stand for a location.
    dtype: format of the result's float tensors, "auto" being the new base's (post's, where its very base
    was given). old_base: the base that the first delta was made on, to say how far the new one is from
    it. take_config: "base" or "post" by key of config.json, or "base:KEY" and "post:KEY": whose value
    counts, whatever the policy. allow_unrelated: whether to write the sum even on a base that seems to
    have nothing to do with that of a delta. key: public key or certificate (PEM) by which every delta
    must be signed. options: see `Transferring`, and `Fusing` for other ways to put deltas together than
    their sum.
    Raises the errors of `pipeline.errors`; on any of them nothing appears under `output`, unless it was
    the push that failed: then the folder stays there.
    """
    wanted = scaled(deltas, scale)
    fusion, others = Fusion.take(options, [factor for _, factor in wanted])
    form = Form.parse(dtype, shard_size, fusion, take_config)
    verifier = load_verifier(key, required=require_signature)
    setup = Setup.of(others)
    place = Place.for_model(output, setup).refuse_taken(is_model=True)
    hub = HubPush.wanted(setup)
    with ExitStack() as stack:
        inputs = Inputs.open(stack, base, wanted, form, setup, old_base=old_base, verifier=verifier)
        report = _write_best(inputs, place, allow_unrelated=allow_unrelated)
    return replace(report, pushed=hub.model(output).pushed) if hub else report


def _write_best(inputs: Inputs, place: Place, *, allow_unrelated: bool) -> ApplyReport:
    """Write what the inputs come to, or on a dry run say what would be written."""
    restored = inputs.restoring()
    if place.setup.dry_run:
        total = restored or inputs.on_another_base(reads=False)
        return _Run(total, place, allow_unrelated).preview()
    if restored:
        with suppress(NotTheSameBase):  # identical where it was probed, different elsewhere
            return _Run(restored, place, allow_unrelated).write()
    return _Run(inputs.on_another_base(reads=True), place, allow_unrelated).write()


@dataclass(frozen=True)
class _Run:
    """A sum on its way to its place."""

    sum: Sum
    place: Place
    allow_unrelated: bool

    def preview(self) -> ApplyReport:
        """What is known of a dry run."""
        layout = self.sum.plan()
        return replace(self._report(layout), config_table=self.sum.release(layout).config_table)

    def _report(self, layout: SumPlan) -> ApplyReport:
        """What is known before the run. Raises UnrelatedBase."""
        what, place = self.sum, self.place
        size = sum(shard.nbytes for shard in layout.shards)
        reading = what.fused.all_reading(layout)
        return ApplyReport(
            output=place.location,
            base=what.base.location,
            deltas=[(a.location, s) for a, s in zip(what.addends, what.scales, strict=True)],
            dry_run=place.setup.dry_run,
            case=SAME_BASE if what.same_base else ANOTHER_BASE,
            tensors=len(layout.tensors),
            elements=sum(item.result.count for item in layout.tensors),
            read_bytes=reading.read_bytes,
            written_bytes=size,
            files=[shard.name for shard in layout.shards],
            lineage=() if what.same_base else self._lineage(),
            vocabulary=what.settled.table,
            **asdict(what.names),
            **what.fused.report(),
            **asdict(place.estimate(reading, what.readers, size)),
        )

    def _lineage(self) -> list[Lineage]:
        """How the new base stands to those of the addends. Raises UnrelatedBase."""
        return probe_lineage(
            self.sum.base,
            self.sum.addends,
            allow_unrelated=self.allow_unrelated,
            preview=self.place.setup.dry_run,
        )

    def write(self) -> ApplyReport:
        """Write the whole folder and publish it. Raises NotTheSameBase if it is not."""
        what, layout = self.sum, self.sum.plan()
        carried = tuple(name for name in layout.carried() if name not in what.fused.left_out())
        report = replace(self._report(layout), carried=carried)
        found = Found.empty(layout.plan.rows)
        folder = self.place.setup.settings.digest_cache
        known = KeptDigests(what.base, folder)
        adding = Adding(layout.tensors, what.addends, what.scales, found, known, what.same_base)
        if folder:
            report = replace(report, recalled_bytes=adding.recalled_bytes)
        release = what.release(layout)

        def finish() -> Beside:
            nonlocal report
            if not what.same_base:
                refuse_overflow(layout, found.overflows, where=self.place.location)
            adding.keep_digests(lambda: layout.by_tensor(found.base))
            fingerprints = release.fingerprints(found.base, found.result)
            report = replace(
                report,
                **release.summary(fingerprints, int(found.nonfinite.sum())),
                nonfinite_tensors=tensors_with(layout, found.nonfinite),
                base_distance=found.base_distance if what.old else None,
                **found.movements.summary(layout, has_old=what.old is not None),
            )
            files = other_files(release, report, fingerprints, self.place.setup.signer)
            return Beside(release.labels(fingerprints), files)

        names = write_model(self.place, self._work(layout, adding), layout.shards, finish)
        return replace(report, files=names)

    def _work(self, layout: SumPlan, adding: Adding) -> Work:
        what, setup, found = self.sum, self.place.setup, adding.found
        work = Work(
            title=f"apply {self.place.location}",
            plan=layout.plan,
            readers=what.readers,
            make_kernel=lambda: AddKernel.of(adding, setup.resources.arithmetic),
            findings=[
                *(found.base, found.result, found.nonfinite, found.overflows, found.distance),
                *(found.change, found.way),
                *(table for addend in what.addends for table in addend.findings),
            ],
            options=[what.scales, what.same_base, *what.settled.rules, *what.fused.key],
            scratch_bytes=sum_bytes(_dtypes(layout))
            + max(norms.SCRATCH_BYTES, movements.SCRATCH_BYTES)
            + sum(addend.scratch_bytes for addend in what.addends),
        )
        if what.fused.is_plain:  # what a fusion takes is slow to load, and a mere sum has no use for it
            return work
        from pipeline.operations.fusion.work import fusing_work

        return fusing_work(work, what, layout, adding, setup)


def _dtypes(layout: SumPlan) -> Iterator[DType]:
    """The formats that take part in the arithmetic."""
    for item in layout.tensors:
        yield from (item.base.dtype, item.result.dtype)
        records = [tensor.record for tensor in item.added]
        yield from (record.stored for record in records)
        yield from (record.width for record in records if record.width == F64)
