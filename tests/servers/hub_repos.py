"""Repositories of the local Hub: commits made from folders, and the names that point at them.

A commit is an immutable listing of a folder. Its sha depends only on the repository's name and on
the folder's content, so a test may compute it once and rely on it. Bytes are not copied: they are
served from the folder, which therefore must not change afterwards (`HubFile.check` notices).
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What the real Hub's default .gitattributes puts into LFS, and the size from which it insists.
LFS_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".onnx", ".model", ".msgpack", ".npz"}
)
LFS_MIN_SIZE = 10 * 1024 * 1024
SKIPPED_DIRS = frozenset({".git", ".cache"})
_READ_SIZE = 1 << 20
_LONG_AGO = "2024-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class HubFile:
    """One file of a commit. `oid` is its git blob id; `sha256` is set only for files in LFS."""

    path: str
    source: Path
    size: int
    mtime_ns: int
    oid: str
    sha256: str | None
    pointer_size: int

    @classmethod
    def read(cls, source: Path, path: str) -> HubFile:
        """Hash `source` in one pass, the way git (or git-lfs) would store it as `path`."""
        stat = source.stat()
        in_lfs = Path(path).suffix in LFS_SUFFIXES or stat.st_size >= LFS_MIN_SIZE
        digest = hashlib.sha256() if in_lfs else hashlib.sha1(b"blob %d\0" % stat.st_size)
        with source.open("rb") as stream:
            while chunk := stream.read(_READ_SIZE):
                digest.update(chunk)
        if not in_lfs:
            return cls(path, source, stat.st_size, stat.st_mtime_ns, digest.hexdigest(), None, 0)
        sha256 = digest.hexdigest()
        pointer = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {stat.st_size}\n"
        ).encode()
        oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
        return cls(path, source, stat.st_size, stat.st_mtime_ns, oid, sha256, len(pointer))

    @property
    def etag(self) -> str:
        """The identity the Hub gives to the content: sha256 in LFS, else the git blob id."""
        return self.sha256 or self.oid

    def check(self) -> None:
        """Raise RuntimeError if the source changed since the commit was made."""
        stat = self.source.stat()
        if (stat.st_size, stat.st_mtime_ns) != (self.size, self.mtime_ns):
            raise RuntimeError(f"{self.source} changed after it was committed to the local Hub")

    def tree_entry(self) -> dict[str, Any]:
        """The file as `/tree` and `/paths-info` list it."""
        entry: dict[str, Any] = {
            "type": "file",
            "oid": self.oid,
            "size": self.size,
            "path": self.path,
        }
        if self.sha256:
            entry["lfs"] = {
                "oid": self.sha256,
                "size": self.size,
                "pointerSize": self.pointer_size,
            }
        return entry

    def sibling(self, blobs: bool) -> dict[str, Any]:
        """The file as model info lists it; sizes and LFS only when `blobs` was asked for."""
        if not blobs:
            return {"rfilename": self.path}
        entry: dict[str, Any] = {"rfilename": self.path, "size": self.size, "blobId": self.oid}
        if self.sha256:
            entry["lfs"] = {
                "sha256": self.sha256,
                "size": self.size,
                "pointerSize": self.pointer_size,
            }
        return entry


@dataclass(frozen=True)
class Commit:
    """An immutable listing of files, by their path in the repository."""

    sha: str
    files: dict[str, HubFile]

    @classmethod
    def read(cls, repo: str, folder: Path) -> Commit:
        """Commit every file below `folder` (except .git and .cache)."""
        files: dict[str, HubFile] = {}
        for source in sorted(folder.rglob("*")):
            relative = source.relative_to(folder)
            if source.is_file() and not SKIPPED_DIRS.intersection(relative.parts):
                files[relative.as_posix()] = HubFile.read(source, relative.as_posix())
        return cls.of(repo, files)

    @classmethod
    def of(cls, repo: str, files: dict[str, HubFile]) -> Commit:
        """The commit of exactly these files."""
        listing = "".join(f"{file.oid} {path}\n" for path, file in sorted(files.items()))
        return cls(hashlib.sha1(f"{repo}\n{listing}".encode()).hexdigest(), files)

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]] | None:
        """Entries below `folder` ("" is the root), or None where there is no such folder."""
        prefix = f"{folder}/" if folder else ""
        below = {path: file for path, file in self.files.items() if path.startswith(prefix)}
        if folder and not below:
            return None
        entries: dict[str, dict[str, Any]] = {}
        for path, file in below.items():
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                parent = prefix + "/".join(parts[:depth])
                entries[parent] = self.folder_entry(parent)
            if recursive or len(parts) == 1:
                entries[path] = file.tree_entry()
        return [entries[path] for path in sorted(entries)]

    def paths_info(self, paths: list[str]) -> list[dict[str, Any]]:
        """Files and folders among `paths`; the others are left out, as the Hub does."""
        entries = []
        for path in paths:
            if path in self.files:
                entries.append(self.files[path].tree_entry())
            elif self.tree(path, recursive=False) is not None:
                entries.append(self.folder_entry(path))
        return entries

    def folder_entry(self, path: str) -> dict[str, Any]:
        """A folder as `/tree` lists it."""
        oid = hashlib.sha1(f"{self.sha} {path}".encode()).hexdigest()
        return {"type": "directory", "oid": oid, "size": 0, "path": path}


@dataclass
class Repo:
    """A repository: who may read it, its commits, and the branches and tags that name them."""

    name: str
    gated: bool = False
    private: bool = False
    token: str | None = None
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)  # of the commits that were pushed
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add_commit(self, branch: str, commit: Commit) -> str:
        """Point `branch` at `commit`; return its sha."""
        with self._lock:
            self.commits[commit.sha] = commit
            self.branches[branch] = commit.sha
        return commit.sha

    def set_branch(self, branch: str, target: Path | str) -> str:
        """Point `branch` (new or not) at a folder's content or a known commit; return the sha.

        Earlier commits stay reachable by their sha, as on the real Hub.
        """
        return self._point(self.branches, branch, target)

    def set_tag(self, tag: str, target: Path | str) -> str:
        """The same for a tag."""
        return self._point(self.tags, tag, target)

    def _point(self, names: dict[str, str], name: str, target: Path | str) -> str:
        commit = self.find(target) if isinstance(target, str) else None
        if commit is None:
            folder = Path(target)
            if not folder.is_dir():
                raise ValueError(f"{target!r} is neither a folder nor a revision of {self.name}")
            commit = Commit.read(self.name, folder)
        with self._lock:
            self.commits[commit.sha] = commit
            names[name] = commit.sha
        return commit.sha

    def find(self, revision: str) -> Commit | None:
        """The commit a branch, a tag or a full sha means now."""
        with self._lock:
            sha = self.branches.get(revision) or self.tags.get(revision) or revision
            return self.commits.get(sha)

    def sha(self, revision: str = "main") -> str:
        """The commit sha `revision` means now; KeyError if there is none."""
        commit = self.find(revision)
        if commit is None:
            raise KeyError(revision)
        return commit.sha

    def refs(self) -> dict[str, Any]:
        """Branches and tags as `/refs` lists them."""

        def listed(names: dict[str, str], kind: str) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}
                for name, sha in sorted(names.items())
            ]

        return {
            "branches": listed(self.branches, "heads"),
            "tags": listed(self.tags, "tags"),
            "converts": [],
            "pullRequests": [],
        }

    def info(self, commit: Commit, blobs: bool) -> dict[str, Any]:
        """Model info at `commit`."""
        return {
            "_id": commit.sha[:24],
            "id": self.name,
            "modelId": self.name,
            "author": self.name.split("/")[0],
            "sha": commit.sha,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "lastModified": _LONG_AGO,
            "createdAt": _LONG_AGO,
            "siblings": [file.sibling(blobs) for file in commit.files.values()],
        }
