"""Models on the Hugging Face Hub, through the huggingface_hub client, its cache and its conventions.

A revision is resolved to a commit once, and everything is read at that commit: by range (`ranges`),
with nothing on the disk, or through the client's cache (`fetch`), which other tools share and which
resumes an interrupted download. A Hub that is down, or not to be asked, is no obstacle to what the cache
has: the client itself sees it so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import NotFound, Unreachable
from pipeline.storage.base import BlobInfo, Reader
from pipeline.storage.hub.digest import TRIES, Digest, damaged, file_matches
from pipeline.storage.hub.errors import FIRST_TRIES, Silent, explained, repo_location, unreachable
from pipeline.storage.hub.ranges import RangeReader
from pipeline.storage.local.files import free_bytes
from pipeline.storage.local.store import LocalReader
from pipeline.storage.retry import retried
from pipeline.units import GIB, format_bytes

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_SPARE_BYTES = GIB  # that a download leaves free: a disk filled to the last byte hurts others

_log = logging.getLogger(__name__)


class HubRepo:
    """The files of one model repository at one commit, for reading."""

    def __init__(self, repo: str, revision: str | None, *, token: str | None = None) -> None:
        from huggingface_hub import HfApi

        self.repo = repo
        self._present_name = repo  # another one if it was renamed: the cache knows it by that asked for
        self._revision = revision
        self._token = token
        self._api: HfApi = HfApi(token=token)
        self._sizes: dict[str, int] = {}
        self._digests: dict[str, Digest] = {}
        self._is_cached = False
        self.commit = self._resolve(revision)

    @property
    def url(self) -> str:
        """The repository at its commit, as a location."""
        return repo_location(self.repo, self.commit)

    def _resolve(self, revision: str | None) -> str:
        """Find the commit and the files: the Hub's, or the cache's if the Hub can't be asked."""
        from huggingface_hub.errors import OfflineModeIsEnabled

        def ask() -> str:
            try:
                return self._ask(revision)
            except OfflineModeIsEnabled:
                return self._look_up(revision)
            except Silent as error:
                return self._look_up(revision, error)

        try:
            return retried(ask, tries=FIRST_TRIES)
        except Unreachable as error:  # it answers, but only that it can't: not for a moment, it seems
            try:
                return self._look_up(revision, error)
            except Unreachable:
                if not error.is_busy:
                    raise
                return retried(ask)

    def _look_up(self, revision: str | None, failure: Unreachable | None = None) -> str:
        """The commit and the files that the cache has of the revision. Raises `failure`, or NotFound."""
        from huggingface_hub import snapshot_download

        try:
            with explained(self.repo, revision):
                # What is missing of the repository is not missed before somebody wants to read it.
                found = snapshot_download(
                    self.repo, revision=revision, local_files_only=True, allow_patterns=[]
                )
        except NotFound as error:
            raise failure or error from None
        folder = Path(found)
        for path in folder.rglob("*"):
            if path.is_file():
                self._sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
        self._is_cached = True
        return folder.name

    def _ask(self, revision: str | None) -> str:
        """The commit and the files, from the Hub."""
        from huggingface_hub import constants
        from huggingface_hub.errors import OfflineModeIsEnabled

        with explained(self.repo, revision, passing=OfflineModeIsEnabled):
            try:
                info = self._api.model_info(
                    self.repo,
                    revision=revision,
                    files_metadata=True,
                    timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                )
            except (KeyError, TypeError, AttributeError):  # what came is no such answer
                where = repo_location(self.repo, revision)
                raise unreachable("the Hub's answer means nothing", where=where) from None
        if info.id != self.repo:
            self._present_name = info.id
            _log.warning("%s is called %s now", repo_location(self.repo), repo_location(info.id))
        for sibling in info.siblings or ():
            self._sizes[sibling.rfilename] = sibling.size or 0
            digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
            if digest:
                self._digests[sibling.rfilename] = Digest(digest)
        if not info.sha:
            raise NotFound("has no commit", where=repo_location(self.repo))
        return info.sha

    def stat(self, name: str) -> BlobInfo | None:
        """The file called `name`, or None."""
        return BlobInfo(name, self._sizes[name]) if name in self._sizes else None

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """All files of the repository whose name begins with `prefix`, sorted."""
        for name in sorted(self._sizes):
            if name.startswith(prefix):
                yield BlobInfo(name, self._sizes[name])

    def open(self, name: str) -> Reader:
        """Open a file: from the cache if it is there, else by range. Raises NotFound."""
        from huggingface_hub import hf_hub_url

        if name not in self._sizes:
            raise NotFound("no such file", where=f"{self.url}/{name}")
        cached = self._cached(name)
        if cached is not None:
            return LocalReader(cached)
        return RangeReader(
            f"{self.url}/{name}",
            hf_hub_url(self._present_name, name, revision=self.commit),
            nbytes=self._sizes[name],
            digest=self._digests.get(name),
            repo=self.repo,
            commit=self.commit,
            token=self._token,
        )

    def _cached(self, name: str) -> Path | None:
        """Where the cache has the file, if it does."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, name, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def fits_cache(self, names: Sequence[str]) -> bool:
        """Whether the cache can be written, and its disk has room for those files that it lacks."""
        from huggingface_hub import constants

        missing = sum(self._sizes[name] for name in names if self._cached(name) is None)
        folder = Path(constants.HF_HUB_CACHE).absolute()
        free = free_bytes(folder)
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not missing or (missing + _SPARE_BYTES <= free and os.access(there, os.W_OK | os.X_OK)):
            return True
        _log.info(
            "%s is read by range: its %s do not go to the Hub's cache, which has %s left",
            self.url, format_bytes(missing), format_bytes(free),
        )  # fmt: skip
        return False

    def fetch(self, names: Sequence[str]) -> None:
        """Bring files into the cache. A download that breaks off is resumed, or begun again.

        So is one whose content is not what the Hub lists: the client compares sizes only, and what lies
        in the cache is believed by all tools.
        """
        for name in names:
            self._fetch_whole(name)
        if self._is_cached:
            return
        # The cache knows a branch only by what was asked for by its name: offline it will be.
        retried(partial(self._download, names[0], self._revision))

    def _fetch_whole(self, name: str) -> None:
        digest = self._digests.get(name)
        for _ in range(TRIES):
            is_new = self._cached(name) is None
            path = retried(partial(self._download, name, self.commit))
            if not is_new or not digest or file_matches(digest, path):
                return
            blob = path.resolve()
            path.unlink()
            blob.unlink(missing_ok=True)
        raise damaged(f"{self.url}/{name}")

    def _download(self, name: str, revision: str | None) -> Path:
        from huggingface_hub import hf_hub_download

        with explained(self.repo, revision):
            return Path(hf_hub_download(self.repo, name, revision=revision, token=self._token))
