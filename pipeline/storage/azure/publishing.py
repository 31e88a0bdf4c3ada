"""Publishing a folder of blobs: all of it or, to our own readers, nothing.

A container has no commit for several blobs. So a run claims the folder (`claim`), and while the
claim lies there nobody reads it as a model. What readers look for first goes, all blocks are staged, the
claim is looked at once more, each file is committed under the condition that its place is as it was
listed under the claim, and the claim goes.

Why two runs can't mix, even if one stalls anywhere, loses its claim to the other and then goes on:

- What it may still commit, it staged before that last look, so before the claim was taken over, under
  names that the claim lists. Whoever takes over commits something under each of these names (its own
  file, or a mark that it then deletes), and a commit discards all other blocks of its name: from then on
  the stalled one's commit fails for want of its blocks. An empty file has none, so it replaces a mark,
  by that mark's etag. What it may still delete, it deletes by etag: nobody else's file has that one.
  A third run may have staged the very same content again, which the stalled one then finds: it commits
  what that run would have committed there, whose own commit fails as below.
- If it commits before that, under a name where the other has listed something else, the other's own
  commit there fails. It stops and leaves the claim: nobody reads the folder, the next run repairs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.errors import OutputExists
from pipeline.storage.azure.claim import CLAIM, Claim
from pipeline.storage.azure.container import Container
from pipeline.storage.azure.errors import Changed
from pipeline.storage.azure.etags import Etag
from pipeline.storage.azure.writing import AzureWriter
from pipeline.storage.base import Aborting, Buffer, Reader, Staged, Writer
from pipeline.storage.errors import exists, overtaken
from pipeline.storage.names import safe_name
from pipeline.units import MIB

SMALL_BYTES = MIB
MARK = b"-"


class AzureFolderWriter(Aborting):
    """A folder of blobs, staged one by one and committed together at the end."""

    def __init__(
        self, container: Container, name: str, *, overwrite: bool, seen: Mapping[str, Etag]
    ) -> None:
        """Seen: what lies there now, each name with its etag."""
        self._container = container
        self._name = name
        self._overwrite = overwrite
        self._seen = seen
        self._files: dict[str, _Waiting] = {}

    def create(self, name: str, *, size_hint: int) -> Writer:
        """Start one blob of the folder; see `FolderWriter.create`."""
        staged = _Waiting(self._container, self._full(safe_name(name)), size_hint)
        self._files[name] = staged
        return staged

    def publish(self, order: Sequence[str]) -> None:
        """Commit the blobs in `order`, whose last should be what readers look for first.

        Raises OutputExists if another run publishes there.
        """
        if set(order) != set(self._files):
            raise ValueError("the order must name every file of the folder once")
        self._refuse_whole(self._found())  # before it is claimed, and not to be read for a moment
        claim = Claim(self._container, self._name, order)
        untouched = True
        try:
            old = self._found()
            old.pop(CLAIM, None)
            self._check_old(old, claim)
            untouched = False
            claim.begin()
            self._replace(old, claim, order)
            whole = {name: self._files[name].etag for name in order}
            # If the claim was not there to be removed, our request's answer may have been lost.
            if not claim.remove() and self._found() != whole:
                raise Changed("the claim was taken over")
        except BaseException as error:
            claim.give_up(untouched=untouched)
            if isinstance(error, Changed) or (isinstance(error, OutputExists) and not untouched):
                raise overtaken(self._container.where(self._name)) from error
            raise

    def _replace(self, old: dict[str, Etag], claim: Claim, order: Sequence[str]) -> None:
        """Put our files in the place of the `old` ones, which lie there by these etags."""
        marks = {name: self._mark(name) for name in claim.names - set(order)}
        files = {**marks, **{name: self._files[name] for name in order}}
        doomed = [name for name in old if name not in files or files[name].is_held]
        for name in sorted(doomed, key=lambda name: name != order[-1]):
            claim.keep()
            self._container.remove(self._full(name), old.pop(name))
        for file in files.values():
            claim.keep()
            file.stage()
        claim.check()  # everything is staged: whoever takes over from here on ends our commits
        for name, file in files.items():
            claim.keep()
            file.publish(old.get(name))
            if name in marks:
                self._container.remove(self._full(name), file.etag)

    def _mark(self, name: str) -> _Waiting:
        """A file to be committed under a name that we have no file for."""
        mark = _Waiting(self._container, self._full(name), len(MARK))
        mark.write(0, MARK)
        return mark

    def _check_old(self, old: Mapping[str, Etag], claim: Claim) -> None:
        """Raise OutputExists if what lies there is not ours to replace, or can't be replaced by us."""
        if claim.is_fresh:
            self._refuse_whole(old)
        for name, file in self._files.items():
            if not file.is_held and old.get(name) != self._seen.get(name):
                # That commit has discarded our blocks.
                raise overtaken(self._container.where(self._name))

    def _refuse_whole(self, found: Mapping[str, Etag]) -> None:
        if found and CLAIM not in found and not self._overwrite:
            raise exists(self._container.where(self._name))

    def _found(self) -> dict[str, Etag]:
        """What lies under the folder's name, each with its etag; the claim too."""
        return self._container.etags(f"{self._name}/")

    def _full(self, name: str) -> str:
        return f"{self._name}/{name}"

    def abort(self) -> None:
        """Nothing: uncommitted blocks are invisible."""


class _Waiting(Aborting):
    """A blob of a folder: its `commit` waits for the folder's `publish`.

    A small one is held here and staged late, for what is staged under a name may go when its old blob
    goes; so its old blob can be the first that does.
    """

    is_remote = True

    def __init__(self, container: Container, name: str, size_hint: int) -> None:
        self._container = container
        self._name = name
        self._size_hint = size_hint
        self._inner = container.writer(name, size_hint)
        self._mark: AzureWriter | None = None
        self._held: dict[int, bytes] = {}
        self.block_bytes = self._inner.block_bytes

    @property
    def is_held(self) -> bool:
        """Whether nothing of it is staged yet."""
        return self._inner.is_empty

    @property
    def etag(self) -> Etag:
        """Of the blob, once it is published."""
        return self._inner.etag or Etag("")

    def write(self, offset: int, data: Buffer) -> None:
        """Stage a block, or hold it if it is small, or if it is the whole of a file of one block."""
        nbytes = memoryview(data).nbytes
        if not nbytes:
            return
        if nbytes < SMALL_BYTES or nbytes == self._size_hint <= self.block_bytes:
            self._held[offset] = bytes(data)
        else:
            self._inner.write(offset, data)

    def label(self, labels: Mapping[str, str]) -> None:
        """See `Writer.label`."""
        self._inner.label(labels)

    def staged(self) -> list[Staged]:
        """See `Resumable.staged`; what is held back is not staged."""
        return self._inner.staged()

    def has(self, block: Staged) -> bool:
        """See `Resumable.has`."""
        return self._inner.has(block)

    def adopt(self, block: Staged) -> None:
        """See `Resumable.adopt`."""
        self._inner.adopt(block)

    def can_pull(self, reader: Reader) -> bool:
        """See `Puller.can_pull`."""
        return self._inner.can_pull(reader)

    def pull(self, offset: int, nbytes: int, reader: Reader) -> None:
        """Stage a block that the service copies; see `Puller.pull`."""
        self._inner.pull(offset, nbytes, reader)

    def commit(self) -> None:
        """Nothing yet."""

    def stage(self) -> None:
        """Stage what was held; for an empty file, a mark that it will replace."""
        for offset, data in self._held.items():
            self._inner.write(offset, data)
        if self._inner.is_empty:
            self._mark = self._container.writer(self._name, len(MARK))
            self._mark.write(0, MARK)

    def publish(self, etag: Etag | None) -> None:
        """Commit in the place of the blob that has `etag`, or of none."""
        if self._mark is not None:
            self._mark.etag = etag
            self._mark.commit()
            etag = self._mark.etag
        self._inner.etag = etag
        self._inner.commit()

    def abort(self) -> None:
        """Nothing: see `AzureWriter.abort`."""
