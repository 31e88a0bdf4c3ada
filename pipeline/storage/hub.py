"""Models on the Hugging Face Hub, through the huggingface_hub client, its cache and its conventions.

A revision is resolved to a commit once, and everything is read at that commit. Headers and small files
are read by range without a download; weights go through the client's cache (`fetch`), which other tools
share and which resumes an interrupted download. A Hub that is down, or not to be asked, is no obstacle
to what the cache has: the client itself sees it so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import AccessError, CorruptFile, NotFound, PipelineError, Unreachable
from pipeline.storage.base import BlobInfo, Reader
from pipeline.storage.local import LocalReader
from pipeline.storage.retry import retried

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class _Silent(Unreachable):
    """The Hub gives no answer at all."""


class HubRepo:
    """The files of one model repository at one commit, for reading."""

    def __init__(self, repo: str, revision: str | None, *, token: str | None = None) -> None:
        from huggingface_hub import HfApi

        self.repo = repo
        self._revision = revision
        self._token = token
        self._api: HfApi = HfApi(token=token)
        self._sizes: dict[str, int] = {}
        self._is_cached = False
        self.commit = self._resolve(revision)

    @property
    def url(self) -> str:
        """The repository at its commit, as a location."""
        return f"hf://{self.repo}@{self.commit}"

    def _resolve(self, revision: str | None) -> str:
        """Find the commit and the files: the Hub's, or the cache's if the Hub can't be asked."""
        from huggingface_hub.errors import OfflineModeIsEnabled

        def ask() -> str:
            try:
                return self._ask(revision)
            except OfflineModeIsEnabled:
                return self._look_up(revision)
            except _Silent as error:
                return self._look_up(revision, error)

        try:
            return retried(ask)
        except Unreachable as error:  # it answers, but only that it can't: not for a moment, it seems
            return self._look_up(revision, error)

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
        from huggingface_hub.errors import OfflineModeIsEnabled

        with explained(self.repo, revision, passing=OfflineModeIsEnabled):
            info = self._api.model_info(self.repo, revision=revision, files_metadata=True)
        for sibling in info.siblings or ():
            self._sizes[sibling.rfilename] = sibling.size or 0
        if not info.sha:
            raise NotFound("has no commit", where=f"hf://{self.repo}")
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
        from huggingface_hub import try_to_load_from_cache

        if name not in self._sizes:
            raise NotFound("no such file", where=f"{self.url}/{name}")
        cached = try_to_load_from_cache(self.repo, name, revision=self.commit)
        if isinstance(cached, str):
            return LocalReader(Path(cached))
        return _RangeReader(self, name, self._sizes[name], self._token)

    def fetch(self, names: Sequence[str]) -> None:
        """Bring files into the cache. A download that breaks off is resumed, or begun again."""
        for name in names:
            retried(partial(self._download, name, self.commit))
        if self._is_cached:
            return
        # The cache knows a branch only by what was asked for by its name: offline it will be.
        retried(partial(self._download, names[0], self._revision))

    def _download(self, name: str, revision: str | None) -> None:
        from huggingface_hub import hf_hub_download

        with explained(self.repo, revision):
            hf_hub_download(self.repo, name, revision=revision, token=self._token)


class _RangeReader:
    """Ranges of one file at one commit over HTTP."""

    is_remote = True

    def __init__(self, repo: HubRepo, name: str, nbytes: int, token: str | None) -> None:
        from huggingface_hub import hf_hub_url

        self.name = f"{repo.url}/{name}"
        self.nbytes = nbytes
        self.version = repo.commit
        self._repo = repo
        self._token = token
        self._address = hf_hub_url(repo.repo, name, revision=repo.commit)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; see `Reader.read_into`."""
        if len(buffer):
            retried(lambda: self._read(offset, buffer))

    def _read(self, offset: int, buffer: memoryview) -> None:
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        headers = build_hf_headers(token=self._token)
        headers["Range"] = f"bytes={offset}-{offset + len(buffer) - 1}"
        with explained(self._repo.repo, self._repo.commit):
            answer = get_session().get(self._address, headers=headers, follow_redirects=True)
            hf_raise_for_status(answer)
        if len(answer.content) != len(buffer):
            raise CorruptFile(
                f"{len(answer.content)} bytes came back for a range of {len(buffer)}",
                where=self.name,
                hint="try again",
            )
        buffer[:] = answer.content

    def close(self) -> None:
        """Nothing to let go of: connections belong to the client."""


@contextmanager
def explained(
    repo: str, revision: str | None, *, passing: type[Exception] = PipelineError
) -> Iterator[None]:
    """Turn what the client raises about `repo` into our own errors, but for `passing`."""
    from huggingface_hub import errors

    where = f"hf://{repo}" + (f"@{revision}" if revision else "")
    try:
        yield
    except passing:
        raise
    except errors.GatedRepoError as error:
        raise AccessError(
            "is gated: its owner must grant you access",
            where=where,
            hint="ask on its page on the Hub, then set HF_TOKEN or run `hf auth login`",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFound(
            "no such revision", where=where, hint="check the branch, tag or commit"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFound(
            "no such model on the Hub, or it is private and your token does not reach it",
            where=where,
            hint="check the spelling, or set HF_TOKEN; write ./name for a local folder",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise NotFound(
            "is not in the local cache, and the Hub is not to be asked or does not answer",
            where=where,
            hint="unset HF_HUB_OFFLINE, or download it first with `hf download`",
        ) from error
    except errors.EntryNotFoundError as error:
        raise NotFound("no such file in the repository", where=where) from error
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        kind = Unreachable if isinstance(error, errors.HfHubHTTPError) else _Silent
        raise kind(
            f"the Hub did not answer as it should: {type(error).__name__}",
            where=where,
            hint="check the network and HF_ENDPOINT, then run the same command again",
        ) from error
