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
from dataclasses import asdict, dataclass, field, replace
from typing import Self, Unpack

from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.config_policy import check_choices, parse_choices, require_one_architecture
from pipeline.checkpoints.meeting import NameNotes
from pipeline.checkpoints.output import SHARD_BYTES
from pipeline.deltas.base_rows import in_posts_order
from pipeline.deltas.signing import Verifier
from pipeline.engine.work import Work
from pipeline.operations.addends.addend import Addend, MakeArithmetic
from pipeline.operations.addends.opening import open_addend
from pipeline.operations.arguments import Difference, ScaledAddend, scaled
from pipeline.operations.fit import SumPlan, fit, plan_sum
from pipeline.operations.fusion.choice import Fusing, Fusion
from pipeline.operations.fusion.layout import Fused
from pipeline.operations.fusion.survey import Survey
from pipeline.operations.kernels.add import AddKernel, Found, NotTheSameBase
from pipeline.operations.kernels.deltas import Recipe
from pipeline.operations.kernels.deltas import scratch_bytes as fusing_bytes
from pipeline.operations.kernels.fuse import FuseKernel
from pipeline.operations.lineage.figures import Lineage
from pipeline.operations.lineage.probing import probe_lineage
from pipeline.operations.names import as_base_of, under_own_names
from pipeline.operations.outputs.model import Beside, write_model
from pipeline.operations.outputs.places import Place
from pipeline.operations.outputs.release import Release, other_files
from pipeline.operations.outputs.report import ANOTHER_BASE, SAME_BASE, ApplyReport
from pipeline.operations.outputs.signatures import load_verifier
from pipeline.operations.overflow import refuse_overflow, tensors_with
from pipeline.operations.push import HubPush
from pipeline.operations.same_base import looks_like_same_base
from pipeline.operations.setup import Setup, Transferring
from pipeline.operations.vocabulary import Settled, settle, settle_own
from pipeline.storage.base import Reader
from pipeline.tensors import movements, norms
from pipeline.tensors.arithmetic import sum_bytes
from pipeline.tensors.dtypes import F64, DType, parse_dtype, torch_name
from pipeline.units import parse_bytes


class Applying(Transferring, Fusing, total=False):
    """Options of apply beside its own; see each."""


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
    form, shard_bytes = parse_dtype(dtype), parse_bytes(shard_size)
    wanted = scaled(deltas, scale)
    choices = parse_choices(take_config or ())
    fusion, others = Fusion.take(options, [factor for _, factor in wanted])
    verifier = load_verifier(key, required=require_signature)
    setup = Setup.of(others)
    place = Place.for_model(output, setup).refuse_taken(is_model=True)
    hub = HubPush.wanted(setup)
    with ExitStack() as stack:
        run = _Run.open(stack, base, old_base, wanted, fusion, verifier, form, setup)
        run = replace(run.deciding(choices), allow_unrelated=allow_unrelated)
        report = run.apply(place, shard_bytes)
    return replace(report, pushed=hub.model(output).pushed) if hub else report


@dataclass(frozen=True)
class _Run:
    """One sum, its inputs opened. old: the base that the first addend was made on, if it is wanted.

    settled: once it is known, what became of the vocabulary; `base` is in the result's order then.
    """

    base: Checkpoint
    old: Checkpoint | None
    addends: Sequence[Addend]
    scales: Sequence[float]
    fused: Fused
    dtype: DType | None
    settled: Settled | None = None
    names: NameNotes = field(default_factory=NameNotes)
    choices: Mapping[str, str] = field(default_factory=dict)
    allow_unrelated: bool = False

    @classmethod
    def open(
        cls,
        stack: ExitStack,
        base: str,
        old_base: str | None,
        wanted: Sequence[ScaledAddend],
        fusion: Fusion,
        verifier: Verifier | None,
        dtype: DType | None,
        setup: Setup,
    ) -> Self:
        """Open everything that is read, for as long as `stack` lasts."""
        settings = setup.settings
        model = stack.enter_context(open_checkpoint(base, settings=settings, headers_only=setup.dry_run))
        opened = [open_addend(stack, what, setup, verifier) for what, _ in wanted]
        old = None
        if old_base is not None:
            old = stack.enter_context(open_checkpoint(old_base, settings=settings))
            old = in_posts_order(as_base_of(opened[0], old), opened[0].base_rows)
            opened[0].check_base(old)
        fused = Fused.of(fusion, model)
        return cls(model, old, opened, [scale for _, scale in wanted], fused, dtype)

    def deciding(self, choices: Mapping[str, str]) -> Self:
        """The run with sides chosen for keys of the config, which must otherwise allow the sum.

        Raises UsageError and Mismatch.
        """
        ours = self.base.config
        for addend in self.addends:
            where = f"{self.base.location} and {addend.location}"
            check_choices(choices, ours, self.addends[0].config, where=where)
            require_one_architecture(
                ours, addend.config, where=where, decided=choices, noun="the new base"
            )
        return replace(self, choices=choices)

    def apply(self, place: Place, shard_bytes: int) -> ApplyReport:
        """Write the sum, or on a dry run say what would be written."""
        is_one = list(self.scales) == [1.0] and self.fused.is_plain
        seen = self._on_own_base() if is_one else self
        same_base = is_one and looks_like_same_base(seen.base, self.addends[0], self.dtype)
        if place.setup.dry_run:
            run = seen if same_base else self._on_another_base(reads=False)
            layout = run._plan(shard_bytes, same_base=same_base)
            table = run._release(layout, same_base=same_base).config_table
            return replace(run._report(place, layout, same_base=same_base), config_table=table)
        if same_base:
            with suppress(NotTheSameBase):  # identical where it was probed, different elsewhere
                return seen._write(place, shard_bytes, same_base=True)
        return self._on_another_base(reads=True)._write(place, shard_bytes, same_base=False)

    def _on_own_base(self) -> Self:
        """The run with its base as that of the one addend, as if that had been made on it."""
        settled = settle_own(as_base_of(self.addends[0], self.base), self.addends)
        fused = Fused.of(self.fused.fusion, settled.base)
        return replace(self, base=settled.base, settled=settled, fused=fused)

    def _on_another_base(self, *, reads: bool) -> Self:
        """The run under the new base's names, its vocabulary brought to post's. Raises Mismatch."""
        names = under_own_names(self.base, self.old, self.addends)
        settled = settle(names.base, names.addends, self.scales, reads=reads)
        return replace(
            self,
            base=settled.base,
            old=names.old,
            addends=names.addends,
            names=names.notes,
            settled=settled,
            fused=Fused.of(self.fused.fusion, settled.base),
        )

    def _plan(self, shard_bytes: int, *, same_base: bool) -> SumPlan:
        """The layout of the result. Raises Mismatch."""
        fitted = fit(self.base, self.addends, dtype=self.dtype, as_post=same_base)
        if self.settled is not None:
            fitted = self.settled.fitted(fitted)
        fitted = self.fused.fit(fitted, self.dtype, where=self.base.location)
        layout = plan_sum(self.base, self.old, self.addends, fitted, shard_bytes=shard_bytes)
        return self.fused.with_edges(layout, self.addends)

    def _release(self, layout: SumPlan, *, same_base: bool) -> Release:
        """The result's files beside its weights."""
        return Release(
            self.base, self.addends, self.scales, layout, same_base, torch_name(self.dtype),
            untied=self.names.untied, choices=self.choices, own=self.settled.own if self.settled else (),
        )  # fmt: skip

    def _report(self, place: Place, layout: SumPlan, *, same_base: bool) -> ApplyReport:
        """What is known before the run."""
        size = sum(shard.nbytes for shard in layout.shards)
        return ApplyReport(
            output=place.location,
            base=self.base.location,
            deltas=[(a.location, s) for a, s in zip(self.addends, self.scales, strict=True)],
            dry_run=place.setup.dry_run,
            case=SAME_BASE if same_base else ANOTHER_BASE,
            tensors=len(layout.tensors),
            elements=sum(item.result.count for item in layout.tensors),
            read_bytes=layout.plan.read_bytes,
            written_bytes=size,
            files=[shard.name for shard in layout.shards],
            **asdict(self.names),
            lineage=() if same_base else self._lineage(preview=place.setup.dry_run),
            **self.fused.report(),
            **asdict(place.estimate(layout.plan, self._readers, size)),
            vocabulary=self.settled.table if self.settled else None,
        )

    def _lineage(self, *, preview: bool) -> list[Lineage]:
        """How the new base stands to those of the addends. Raises UnrelatedBase."""
        return probe_lineage(
            self.base, self.addends, allow_unrelated=self.allow_unrelated, preview=preview
        )

    @property
    def _readers(self) -> list[Reader]:
        old = self.old.readers if self.old else ()
        return [*self.base.readers, *old, *(r for a in self.addends for r in a.readers)]

    def _write(self, place: Place, shard_bytes: int, *, same_base: bool) -> ApplyReport:
        """Write the whole folder and publish it. Raises NotTheSameBase if it is not."""
        layout = self._plan(shard_bytes, same_base=same_base)
        carried = tuple(name for name in layout.carried() if name not in self.fused.left_out())
        report = replace(self._report(place, layout, same_base=same_base), carried=carried)
        found = Found.empty(layout.plan.rows)
        release = self._release(layout, same_base=same_base)

        def finish() -> Beside:
            nonlocal report
            if not same_base:
                refuse_overflow(layout, found.overflows, where=place.location)
            fingerprints = release.fingerprints(found.base, found.result)
            report = replace(
                report,
                **release.summary(fingerprints, int(found.nonfinite.sum())),
                nonfinite_tensors=tensors_with(layout, found.nonfinite),
                base_distance=found.base_distance if self.old else None,
                **found.movements.summary(layout, has_old=self.old is not None),
            )
            files = other_files(release, report, fingerprints, place.setup.signer)
            return Beside(release.labels(fingerprints), files)

        names = write_model(place, self._work(place, layout, found, same_base), layout.shards, finish)
        return replace(report, files=names)

    def _work(self, place: Place, layout: SumPlan, found: Found, same_base: bool) -> Work:
        arithmetic = place.setup.resources.arithmetic
        recipes = self._recipes(place, layout)
        return Work(
            title=f"apply {place.location}",
            plan=layout.plan,
            readers=self._readers,
            make_kernel=lambda: self._kernel(layout, found, arithmetic, recipes, same_base=same_base),
            findings=[
                *(found.base, found.result, found.nonfinite, found.overflows, found.distance),
                *(found.change, found.way),
                *(table for addend in self.addends for table in addend.findings),
            ],
            options=[
                self.scales,
                same_base,
                *(self.settled.rules if self.settled else ()),
                *self.fused.key,
            ],
            scratch_bytes=sum_bytes(_dtypes(layout))
            + max(norms.SCRATCH_BYTES, movements.SCRATCH_BYTES)
            + sum(addend.scratch_bytes for addend in self.addends)
            + (0 if self.fused.is_plain else fusing_bytes(self.fused.fusion, len(self.addends))),
        )

    def _recipes(self, place: Place, layout: SumPlan) -> list[Recipe | None]:
        """What the method must know of whole tensors; to find it out, they may be read."""
        inputs = (layout, self.addends, self.scales, self._readers)
        return [] if self.fused.is_plain else Survey(self.fused, *inputs, place.setup).recipes()

    def _kernel(
        self,
        layout: SumPlan,
        found: Found,
        arithmetic: MakeArithmetic,
        recipes: Sequence[Recipe | None],
        *,
        same_base: bool,
    ) -> AddKernel:
        """A kernel for one worker."""
        decoders = [addend.decoder(arithmetic) for addend in self.addends]
        inputs = (layout.tensors, self.addends, self.scales, found, arithmetic(), decoders)
        if self.fused.is_plain:
            return AddKernel(*inputs, same_base)
        return FuseKernel(*inputs, same_base, self.fused, recipes)


def _dtypes(layout: SumPlan) -> Iterator[DType]:
    """The formats that take part in the arithmetic."""
    for item in layout.tensors:
        yield from (item.base.dtype, item.result.dtype)
        records = [tensor.record for tensor in item.added]
        yield from (record.stored for record in records)
        yield from (record.width for record in records if record.width == F64)
