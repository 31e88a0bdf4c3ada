"""Pushing files to the Hub: all of them by one commit, read from wherever they lie.

What is pushed is read from a store's readers, twice (its digest comes first), and needs no disk. A
branch that moves meanwhile is looked at again, so nothing is overwritten that nobody saw; and a commit
whose answer was lost is recognised as our own, for everything is there.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from pipeline.errors import NotFound, OutputExists, StorageError, UsageError
from pipeline.storage.base import Reader
from pipeline.storage.hub.errors import explained, repo_location, unreachable
from pipeline.storage.hub.refusals import Moved
from pipeline.storage.locations import Scheme, parse_model
from pipeline.storage.reader_file import ReaderFile
from pipeline.storage.retry import retried
from pipeline.units import MIB

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_READ_BYTES = 8 * MIB  # at once from a store: the client asks for 64 KiB, which may be a round trip
_MAIN = "main"


@dataclass(frozen=True, slots=True)
class HubTarget:
    """A branch of a repository to push to. private: what it is to be if it has to be made."""

    repo: str
    branch: str = _MAIN
    private: bool = False

    @classmethod
    def parse(cls, text: str, *, revision: str | None = None, private: bool = False) -> Self:
        """The target called `text`: org/name. Raises UsageError."""
        location = parse_model(text if "://" in text else f"hf://{text}")
        if location.scheme is not Scheme.HUB or location.path.count("/") != 1 or location.file:
            raise UsageError(f"{text!r} is not a repository", hint="write --push-to-hub org/name")
        if location.revision and revision and location.revision != revision:
            raise UsageError("two revisions are given", where=text, hint="give one")
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        with explained(location.path):
            validate_repo_id(location.path)
        return cls(location.path, revision or location.revision or _MAIN, private)

    def __str__(self) -> str:
        return repo_location(self.repo, None if self.branch == _MAIN else self.branch)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to be pushed: its name in the repository, and what has its bytes."""

    name: str
    source: Reader | bytes

    @property
    def nbytes(self) -> int:
        """Its size."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.nbytes


def push(
    target: HubTarget,
    uploads: Sequence[Upload],
    *,
    message: str,
    token: str | None,
    overwrite: bool,
    rivals: Callable[[str], bool] = lambda name: False,
) -> str:
    """Make one commit of all `uploads`; returns its URL, or the head's if all of it is there already.

    The repository and the branch are made if they are missing. rivals: whether another file of the
    branch would be taken for a part of what is pushed.
    Raises OutputExists if files of these names have another content there, or it has rivals, and
    `overwrite` is not set (with it, they are replaced, and rivals deleted), AccessError and others.
    """
    from huggingface_hub import HfApi

    run = _Push(HfApi(token=token), target, uploads, message, overwrite, rivals)
    return run.run()


@dataclass(frozen=True)
class _Push:
    """One commit to be made."""

    api: HfApi
    target: HubTarget
    uploads: Sequence[Upload]
    message: str
    overwrite: bool
    rivals: Callable[[str], bool]

    def run(self) -> str:
        """See `push`."""
        head = retried(self._head)
        self._refuse(head, None)  # by sizes alone, before everything is read
        with ExitStack() as stack:
            additions = [self._addition(upload, stack) for upload in self.uploads]
            return retried(partial(self._commit, additions))

    def _addition(self, upload: Upload, stack: ExitStack) -> CommitOperationAdd:
        from huggingface_hub import CommitOperationAdd

        if isinstance(upload.source, bytes):
            return CommitOperationAdd(upload.name, io.BytesIO(upload.source))
        file = stack.enter_context(io.BufferedReader(ReaderFile(upload.source), _READ_BYTES))
        return CommitOperationAdd(upload.name, file)

    def _commit(self, additions: Sequence[CommitOperationAdd]) -> str:
        """Look at the branch, and commit what it lacks, under the condition that it stays like that."""
        from huggingface_hub import CommitOperationDelete

        head = self._head()
        self._refuse(head, additions)
        deleted = [sibling.rfilename for sibling in head.siblings or () if self._is_rival(sibling)]
        held = {sibling.rfilename: sibling for sibling in head.siblings or ()}
        missing = [add for add in additions if not _is_same(held.get(add.path_in_repo), add)]
        if not missing and not deleted:
            return f"{self.api.endpoint}/{self.target.repo}/commit/{head.sha}"
        try:
            with explained(self.target.repo, self.target.branch):
                made = self.api.create_commit(
                    self.target.repo,
                    [*missing, *(CommitOperationDelete(name, is_folder=False) for name in deleted)],
                    commit_message=self.message,
                    revision=self.target.branch,
                    parent_commit=head.sha,
                )
        except Moved as error:
            raise unreachable("others commit to it all the time", where=str(self.target)) from error
        except ValueError as error:  # what the client finds wrong with an answer, or with a card
            raise StorageError(f"the Hub refused the commit: {error}", where=str(self.target)) from None
        return str(made.commit_url)

    def _head(self) -> ModelInfo:
        """The branch as it is; made, with its repository, if it is missing."""
        try:
            found = self._ask()
        except NotFound:
            self._make()
            found = self._ask()
        if self.target.private and not found.private:
            raise UsageError(
                "is public, and a private repository was asked for",
                where=str(self.target),
                hint="leave --private out, make it private on its page, or push to another",
            )
        return found

    def _ask(self) -> ModelInfo:
        from huggingface_hub import constants

        with explained(self.target.repo, self.target.branch):
            return self.api.model_info(
                self.target.repo,
                revision=self.target.branch,
                files_metadata=True,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            )

    def _make(self) -> None:
        repo, branch = self.target.repo, self.target.branch
        with explained(repo):
            self.api.create_repo(repo, private=self.target.private or None, exist_ok=True)
        if branch != _MAIN:
            with explained(repo, branch):
                self.api.create_branch(repo, branch=branch, exist_ok=True)

    def _refuse(self, head: ModelInfo, additions: Sequence[CommitOperationAdd] | None) -> None:
        """Raise OutputExists if something is in the way; without `additions` by sizes alone."""
        if self.overwrite:
            return
        held = {sibling.rfilename: sibling for sibling in head.siblings or ()}
        if additions is None:
            differing = [
                upload.name
                for upload in self.uploads
                if upload.name in held and held[upload.name].size not in (None, upload.nbytes)
            ]
        else:
            differing = [
                add.path_in_repo
                for add in additions
                if add.path_in_repo in held and not _is_same(held[add.path_in_repo], add)
            ]
        taken = differing + [name for name, sibling in held.items() if self._is_rival(sibling)]
        if taken:
            more = f" and {len(taken) - 5} more" if len(taken) > 5 else ""
            raise OutputExists(
                f"already has other files than these: {', '.join(sorted(taken)[:5])}{more}",
                where=str(self.target),
                hint="add --overwrite to replace them, or push to another repository or --revision",
            )

    def _is_rival(self, sibling: RepoSibling) -> bool:
        name = sibling.rfilename
        return self.rivals(name) and all(upload.name != name for upload in self.uploads)


def _is_same(held: RepoSibling | None, add: CommitOperationAdd) -> bool:
    """Whether the Hub holds the very content of `add`."""
    from huggingface_hub.utils.sha import git_hash

    if held is None:
        return False
    if held.lfs is not None:
        return bool(held.lfs.sha256 == add.upload_info.sha256.hex())
    if held.size != add.upload_info.size:
        return False
    with add.as_file() as file:  # small: else it would be in LFS
        return bool(held.blob_id == git_hash(file.read()))
