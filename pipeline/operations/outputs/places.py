"""Where an output is to be published, and what an interrupted run has left there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pipeline.deltas.signing import SUFFIX
from pipeline.engine.estimate import Estimate
from pipeline.engine.journal import Journal
from pipeline.engine.plan import Plan
from pipeline.engine.work import Work
from pipeline.operations.setup import Setup
from pipeline.storage.base import FolderWriter, Reader, Store, Writer
from pipeline.storage.errors import exists
from pipeline.storage.locations import Location, Scheme, parse_delta, parse_output_model, parse_store
from pipeline.storage.opening import open_parent


@dataclass(frozen=True)
class Place:
    """A name in a store. location: as people may see it. is_remote: whether a network is between."""

    location: str
    store: Store
    name: str
    setup: Setup
    is_remote: bool

    @classmethod
    def for_delta(cls, output: str, setup: Setup) -> Self:
        """The place of a delta called `output`."""
        return cls._at(parse_delta(output), setup)

    @classmethod
    def for_model(cls, output: str, setup: Setup) -> Self:
        """The place of a model folder called `output`."""
        return cls._at(parse_output_model(output), setup)

    def refuse_taken(self, *, is_model: bool) -> Self:
        """This place, if it is free. Raises OutputExists, before anything is read, if it is not.

        A delta's signature is in the way, too, if there is to be one.
        """
        if self.setup.overwrite:
            return self
        if is_model and self.store.has_folder(self.name):
            raise exists(self.location)
        suffixes = () if is_model else ("", SUFFIX) if self.setup.signer else ("",)
        for suffix in suffixes:
            if self.store.stat(self.name + suffix):
                raise exists(self.location + suffix)
        return self

    @classmethod
    def _at(cls, target: Location, setup: Setup) -> Self:
        store, name = open_parent(target, setup.settings)
        kind = target if target.scheme is not Scheme.STORE else parse_store(setup.settings.store)
        return cls(str(target), store, name, setup, kind.scheme is Scheme.AZURE)

    def estimate(self, plan: Plan, readers: Sequence[Reader], written_bytes: int) -> Estimate:
        """What a run that writes here will move and take."""
        limits = self.setup.resources.limits
        return Estimate.of(plan, readers, limits, written_bytes=written_bytes, to_remote=self.is_remote)

    def create(self, size_bytes: int) -> Writer:
        """Start a file of about that size."""
        return self.store.create(self.name, size_hint=size_bytes, overwrite=self.setup.overwrite)

    def create_folder(self, size_bytes: int) -> FolderWriter:
        """Start a folder of about that size."""
        return self.store.create_folder(self.name, size_hint=size_bytes, overwrite=self.setup.overwrite)

    def journal(self, work: Work) -> Journal | None:
        """The journal of the work that writes here. None for one that signs.

        Who may write to the store could otherwise have digests signed whose content nobody has seen.
        """
        if self.setup.signer is not None:
            return None
        return Journal(self.store, self.name, work, restart=self.setup.restart)
