"""The claim on a folder of blobs that is being published: who may change it, and until when.

The claim is a small blob in the folder, held by a lease that its run renews. A lease that is held
means a run that lives: others wait, and give up if it goes on. One that has run out means a run that
was killed or lost its network: whoever needs the folder takes the claim over, and with it the names
that any run before may still be about to commit. A run of this machine that has ended is not waited for.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pipeline.errors import NotFound, OutputExists, PipelineError, UsageError
from pipeline.storage.azure.container import Container
from pipeline.storage.azure.errors import Changed
from pipeline.storage.azure.etags import Etag, etag_of
from pipeline.storage.names import safe_name
from pipeline.storage.process import has_ended, this_process

if TYPE_CHECKING:
    from azure.storage.blob import BlobLeaseClient

CLAIM = ".being-published"
LEASE_S = 15  # the shortest that the service grants
PATIENCE_S = 17.0  # beyond which whoever holds the lease is known to have renewed it
_LOOK_S = 0.5
_RENEW_S = 4.0
_LAST_TRIES = 5  # of giving up: nothing depends on it but how soon others may go on

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Note:
    """What the claim says. names: the files that this run, or one before it, may yet commit.

    has_begun: whether anything in the folder may have been changed under the claim.
    """

    run: str
    names: frozenset[str]
    host: str = ""
    process: str = ""
    has_begun: bool = True

    def to_json(self) -> bytes:
        """The claim's content."""
        fields = {"run": self.run, "host": self.host, "process": self.process}
        more = {"names": sorted(self.names), "has_begun": self.has_begun}
        return json.dumps({**fields, **more}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> _Note:
        """What `data` says, as far as it can be understood: it comes from outside."""
        try:
            fields: Any = json.loads(data)
            texts = [str(fields[key])[:200] for key in ("run", "host", "process")]
            names = frozenset(safe_name(str(name)) for name in fields["names"])
        except (ValueError, KeyError, TypeError, RecursionError, UsageError):
            return cls("", frozenset())
        return cls(texts[0], names - {CLAIM}, texts[1], texts[2], fields.get("has_begun") is not False)


class Claim:
    """A claim that is ours until it is removed, given up, or taken over by another run.

    names: of the files that any run before this one may yet commit, and of our own. is_fresh: nobody has
    changed anything in the folder under this claim, nor under one that was there.
    """

    def __init__(self, container: Container, folder: str, names: Iterable[str]) -> None:
        """Take the claim on `folder`. Raises OutputExists if another run holds on to it."""
        self._container = container
        self._folder = folder
        self._client = container.client(f"{folder}/{CLAIM}")
        self._run = str(uuid4())
        note = _Note(self._run, frozenset(names), platform.node(), this_process(), has_begun=False)
        self._lease = self._acquire(note)
        self._renewed = time.monotonic()
        found, etag = self._read()
        # Another run may have put this claim a moment ago, and we have got the lease first.
        self.is_fresh = not found.has_begun
        self.names = note.names | found.names
        self._note = replace(note, names=self.names, has_begun=found.has_begun)
        if found != self._note:
            etag = self._rewrite(self._note, etag)
        self._etag = etag

    def begin(self) -> None:
        """Say that from now on the folder changes. Raises Changed if the claim isn't ours any more."""
        if self._note.has_begun:
            return
        self._note = replace(self._note, has_begun=True)
        self._etag = self._rewrite(self._note, self._etag)

    def _acquire(self, note: _Note) -> BlobLeaseClient:
        """Put the claim if there is none, and get its lease."""
        deadline = time.monotonic() + PATIENCE_S
        announced = False
        while True:
            with suppress(Changed):  # there is one
                put = partial(self._client.upload_blob, note.to_json(), overwrite=False)
                self._container.ask(self._folder, put)
            try:
                # The lease's id is our own, so that to ask again after a lost answer does no harm.
                acquire = partial(self._client.acquire_lease, LEASE_S, lease_id=self._run)
                return self._container.ask(self._folder, acquire)
            except NotFound:
                continue  # removed meanwhile: the folder is whole, and may be had
            except Changed:
                if not self._was_broken():
                    announced = self._wait(deadline, announced=announced)

    def _was_broken(self) -> bool:
        """End the lease of a run that has ended; whether there is nothing to wait for."""
        from azure.core import MatchConditions
        from azure.storage.blob import BlobLeaseClient

        with suppress(Changed, NotFound):
            note, etag = self._read()
            if not has_ended(note.process):
                return False
            lease = BlobLeaseClient(self._client)
            seen = MatchConditions.IfNotModified
            self._container.ask(
                self._folder, lambda: lease.break_lease(0, etag=etag, match_condition=seen)
            )
        return True

    def _wait(self, deadline: float, *, announced: bool) -> bool:
        """Wait a moment. Raises OutputExists after the deadline."""
        if time.monotonic() > deadline:
            with suppress(NotFound):
                host = self._read()[0].host
                raise OutputExists(
                    f"another run, on {host!r}, is publishing there",
                    where=self._container.where(self._folder),
                    hint="let it finish, then run this again with --overwrite if it is still wanted",
                )
        if not announced:
            text = "%s: another run is publishing there, or was stopped just now; waiting up to %d s"
            _log.warning(text, self._container.where(self._folder), PATIENCE_S)
        time.sleep(_LOOK_S)
        return True

    def _read(self) -> tuple[_Note, Etag]:
        """What the claim says, and its etag."""

        def read() -> tuple[_Note, Etag]:
            download = self._client.download_blob()
            return _Note.from_json(download.readall()), etag_of(download.properties)

        return self._container.ask(self._folder, read)

    def _rewrite(self, note: _Note, etag: Etag) -> Etag:
        """Put our own note in the place of the one before; returns its etag.

        Raises Changed if the claim isn't ours any more.
        """
        from azure.core import MatchConditions

        def rewrite() -> Etag:
            done = self._client.upload_blob(
                note.to_json(),
                overwrite=True,
                lease=self._lease,
                etag=etag,
                match_condition=MatchConditions.IfNotModified,
            )
            return Etag(str(done["etag"]))

        try:
            return self._container.ask(self._folder, rewrite)
        except Changed:
            found, now = self._read()
            if found != note:  # else the answer was lost, and it was sent again
                raise
            return now

    def check(self) -> None:
        """Make sure that the claim is ours, for LEASE_S from now. Raises Changed."""
        try:
            self._container.ask(self._folder, self._lease.renew)
        except NotFound as error:
            raise Changed("the claim is gone", where=self._container.where(self._folder)) from error
        self._renewed = time.monotonic()

    def keep(self) -> None:
        """Renew the lease if it is time to. Raises Changed if the claim isn't ours any more."""
        if time.monotonic() - self._renewed > _RENEW_S:
            self.check()

    def remove(self) -> bool:
        """End the claim: the folder is whole. False if it was not, or not any more, ours to end."""
        try:
            self.keep()
            self._container.ask(self._folder, partial(self._client.delete_blob, lease=self._lease))
        except (Changed, NotFound):
            return False
        return True

    def give_up(self, *, untouched: bool) -> None:
        """Let the next run have the folder at once, if that can still be said; and if nothing in it
        has changed, let readers have it.
        """
        last = self._lease.release
        if untouched and self.is_fresh:
            last = partial(self._client.delete_blob, lease=self._lease)
        with suppress(PipelineError, Exception):
            self._container.ask(self._folder, last, tries=_LAST_TRIES)
