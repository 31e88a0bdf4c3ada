"""A sum before it is written: its inputs opened, under common names, in one order of rows, and planned.

What apply writes, and what a batch expects to lie there, are both read from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.config_policy import check_choices, parse_choices, require_one_architecture
from pipeline.checkpoints.meeting import NameNotes
from pipeline.deltas.base_rows import in_posts_order
from pipeline.deltas.signing import Verifier
from pipeline.operations.addends.addend import Addend
from pipeline.operations.addends.opening import open_addend
from pipeline.operations.arguments import ScaledAddend
from pipeline.operations.fit import SumPlan, fit, plan_sum
from pipeline.operations.fusion.choice import Fusing, Fusion
from pipeline.operations.fusion.layout import Fused
from pipeline.operations.names import as_base_of, under_own_names
from pipeline.operations.outputs.release import Release
from pipeline.operations.same_base import looks_like_same_base
from pipeline.operations.setup import Setup, Transferring
from pipeline.operations.vocabulary import Settled, settle, settle_own
from pipeline.storage.base import Reader
from pipeline.tensors.dtypes import DType, parse_dtype, torch_name
from pipeline.units import parse_bytes


class Applying(Transferring, Fusing, total=False):
    """Options of apply beside its own; see each."""


@dataclass(frozen=True)
class Form:
    """What the result is to be, whatever goes into it. dtype: of its floats, None being the base's.

    choices: the side, base or post, that counts for a key of the config.
    """

    dtype: DType | None
    shard_bytes: int
    fusion: Fusion
    choices: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(
        cls,
        dtype: str,
        shard_size: str | int,
        fusion: Fusion,
        take_config: Mapping[str, str] | Sequence[str] | None,
    ) -> Self:
        """A form as people write it. Raises UsageError."""
        return cls(parse_dtype(dtype), parse_bytes(shard_size), fusion, parse_choices(take_config or ()))


@dataclass(frozen=True)
class Sum:
    """A sum that is settled: all under the result's names, the new base in its order of rows.

    found: the new base as it lies; `base` is what was made of it to meet the addends. old: the base that
    the first addend was made on, if it is wanted. same_base: whether a post is restored.
    """

    found: Checkpoint
    base: Checkpoint
    old: Checkpoint | None
    addends: Sequence[Addend]
    scales: Sequence[float]
    form: Form
    fused: Fused
    settled: Settled
    names: NameNotes = field(default_factory=NameNotes)
    same_base: bool = False

    @property
    def readers(self) -> list[Reader]:
        """What the plan's inputs are read from."""
        old = self.old.readers if self.old else ()
        return [*self.base.readers, *old, *(r for a in self.addends for r in a.readers)]

    def plan(self) -> SumPlan:
        """The layout of the result. Raises Mismatch with everything that does not fit."""
        form = self.form
        fitted = fit(self.base, self.addends, dtype=form.dtype, as_post=self.same_base)
        fitted = self.fused.fit(self.settled.fitted(fitted), form.dtype, where=self.base.location)
        layout = plan_sum(self.base, self.old, self.addends, fitted, shard_bytes=form.shard_bytes)
        return self.fused.with_edges(layout, self.addends)

    def release(self, layout: SumPlan) -> Release:
        """The result's files beside its weights."""
        return Release(
            found=self.found,
            base=self.base,
            addends=self.addends,
            scales=self.scales,
            layout=layout,
            same_base=self.same_base,
            dtype=torch_name(self.form.dtype),
            untied=self.names.untied,
            choices=self.form.choices,
            own=self.settled.own,
        )


@dataclass(frozen=True)
class Inputs:
    """What goes into a sum, opened as it lies; see `Sum`. old: as the first addend sees it."""

    base: Checkpoint
    old: Checkpoint | None
    addends: Sequence[Addend]
    scales: Sequence[float]
    form: Form

    @classmethod
    def open(
        cls,
        stack: ExitStack,
        base: str,
        wanted: Sequence[ScaledAddend],
        form: Form,
        setup: Setup,
        *,
        old_base: str | None = None,
        verifier: Verifier | None = None,
    ) -> Self:
        """Open everything that is read, for as long as `stack` lasts.

        Raises Mismatch for architectures that differ, UsageError for choices that mean nothing, and what
        opening raises.
        """
        settings = setup.settings
        model = stack.enter_context(open_checkpoint(base, settings=settings, headers_only=setup.dry_run))
        opened = [open_addend(stack, what, setup, verifier) for what, _ in wanted]
        old = None
        if old_base is not None:
            old = stack.enter_context(open_checkpoint(old_base, settings=settings))
            old = in_posts_order(as_base_of(opened[0], old), opened[0].base_rows)
            opened[0].check_base(old)
        for addend in opened:
            where = f"{model.location} and {addend.location}"
            check_choices(form.choices, model.config, opened[0].config, where=where)
            require_one_architecture(
                model.config, addend.config, where=where, decided=form.choices, noun="the new base"
            )
        return cls(model, old, opened, [scale for _, scale in wanted], form)

    def restoring(self) -> Sum | None:
        """The sum that gives a post back, if the base seems to be the very base of a lone delta."""
        if list(self.scales) != [1.0] or not self.form.fusion.is_plain:
            return None
        found = self.on_own_base()
        return found if looks_like_same_base(found.base, self.addends[0], self.form.dtype) else None

    def on_own_base(self) -> Sum:
        """The sum as if the one addend had been made on this base."""
        own = as_base_of(self.addends[0], self.base)
        fused = Fused.of(self.form.fusion, own)
        return self._settled(
            self.old, self.addends, settle_own(own, self.addends), fused, same_base=True
        )

    def on_another_base(self, *, reads: bool) -> Sum:
        """The sum under the new base's names, its vocabulary brought to post's.

        reads: whether weights may be read, a few rows. Raises Mismatch, and UsageError for a pattern
        that matches none of the result's names.
        """
        names = under_own_names(self.base, self.old, self.addends)
        fused = Fused.of(self.form.fusion, names.base)  # before anything is read
        settled = settle(names.base, names.addends, self.scales, reads=reads)
        return self._settled(names.old, names.addends, settled, fused, names=names.notes)

    def _settled(
        self,
        old: Checkpoint | None,
        addends: Sequence[Addend],
        settled: Settled,
        fused: Fused,
        **more: Any,
    ) -> Sum:
        return Sum(self.base, settled.base, old, addends, self.scales, self.form, fused, settled, **more)
