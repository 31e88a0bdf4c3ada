"""The writing side of the local Hub: repositories, branches, LFS uploads and commits.

As `huggingface_hub` speaks it: `preupload` says which files go into LFS, the LFS batch says where
their bytes go (an address that is signed, of the CDN if there is one; in parts if `multipart_bytes`
says so), and one `commit` in lines of JSON names all files. Only tokens with write permission may.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .hub_reply import RefusedError, Reply
from .hub_repos import LFS_MIN_SIZE, LFS_SUFFIXES, Commit, HubFile, Repo

if TYPE_CHECKING:
    from .hub import HubServer

UPLOADS = "lfs-upload"


class Writing:
    """What a handler does for requests that write."""

    hub: HubServer
    cdn: bool
    command: str
    query: dict[str, list[str]]

    def write(self, segments: list[str], body: bytes) -> Reply | None:
        """The answer to a request that writes, None for any other."""
        match segments:
            case ["lfs-upload", oid, part]:
                return self._receive(oid, int(part), body)
            case ["lfs-complete", oid] if not self.cdn:
                return self._complete(oid, json.loads(body))
            case ["api", "validate-yaml"]:
                return _validate_yaml(json.loads(body)["content"])
            case ["api", "repos", "create"]:
                return self._create(json.loads(body))
            case ["api", "models", org, name, "branch", branch]:
                return self._branch(self._writable(f"{org}/{name}"), branch)
            case ["api", "models", org, name, "preupload", revision]:
                return self._preupload(self._writable(f"{org}/{name}"), revision, json.loads(body))
            case ["api", "models", org, name, "commit", revision]:
                return self._add_commit(self._writable(f"{org}/{name}"), revision, body)
            case [org, name, "info", "lfs", "objects", "batch"]:
                return self._batch(
                    self._writable(f"{org}/{name.removesuffix('.git')}"), json.loads(body)
                )
            case [org, name, "info", "lfs", "objects", "verify"]:
                self._writable(f"{org}/{name.removesuffix('.git')}")
                return self._verify(json.loads(body))
        return None

    def is_signed(self) -> bool:
        """Whether the request has a signature that has not expired."""
        return self.query.get("X-Signature", [""])[0] in self.hub.signatures

    def _token(self) -> str | None:
        raise NotImplementedError

    def _repo(self, name: str, content: bool) -> Repo:
        raise NotImplementedError

    def _commit(self, repo: Repo, revision: str) -> Commit:
        raise NotImplementedError

    def _writer(self) -> str:
        token = self._token()
        if token is None:
            raise RefusedError(Reply.error(401, "Invalid username or password."))
        if token not in self.hub.writers:
            raise RefusedError(Reply.error(403, "You don't have the required permissions"))
        return token

    def _writable(self, name: str) -> Repo:
        repo = self._repo(name, content=True)
        self._writer()
        return repo

    def _create(self, wanted: dict[str, Any]) -> Reply:
        token = self._writer()
        name = f"{wanted['organization']}/{wanted['name']}"
        found = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
        if name in self.hub.repos:
            return Reply.of_json({**found, "error": "You already created this model repo"}, 409)
        private = wanted.get("visibility") == "private"
        repo = self.hub.add_repo(name, private=private, token=token)
        attributes = self._keep(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        repo.add_commit(
            "main", Commit.of(name, {".gitattributes": HubFile.read(attributes, ".gitattributes")})
        )
        return Reply.of_json(found)

    def _branch(self, repo: Repo, branch: str) -> Reply:
        if branch in repo.branches:
            return Reply.error(409, "Reference already exists")
        repo.set_branch(branch, "main")
        return Reply.of_json({})

    def _preupload(self, repo: Repo, revision: str, asked: dict[str, Any]) -> Reply:
        held = self._commit(repo, revision).files
        return Reply.of_json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if _is_lfs(file["path"], file["size"]) else "regular",
                        "shouldIgnore": False,
                        "oid": held[file["path"]].etag if file["path"] in held else None,
                    }
                    for file in asked["files"]
                ]
            }
        )

    # -- LFS ------------------------------------------------------------------------------------

    def _batch(self, repo: Repo, asked: dict[str, Any]) -> Reply:
        objects = []
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            found: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.lfs_objects:
                verify = f"{self.hub.url}/{repo.name}.git/info/lfs/objects/verify"
                found["actions"] = {"upload": self._upload(oid, size), "verify": {"href": verify}}
            objects.append(found)
        return Reply.of_json({"transfer": "basic", "objects": objects})

    def _upload(self, oid: str, size: int) -> dict[str, Any]:
        address, part = f"{self.hub.cdn_url or self.hub.url}/{UPLOADS}/{oid}", self.hub.multipart_bytes
        if part is None or size <= part:
            return {"href": self.hub.sign(f"{address}/0")}
        count = -(-size // part)
        parts = {str(n): self.hub.sign(f"{address}/{n}") for n in range(1, count + 1)}
        complete = self.hub.sign(f"{self.hub.url}/lfs-complete/{oid}")
        return {"href": complete, "header": {"chunk_size": str(part), **parts}}

    def _receive(self, oid: str, part: int, body: bytes) -> Reply:
        if not self.is_signed():
            return Reply.error(403, "the signature has expired")
        if part:
            self.hub.parts[oid, part] = body
        else:
            self._store(oid, body)
        return Reply(200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def _complete(self, oid: str, asked: dict[str, Any]) -> Reply:
        numbers = [part["partNumber"] for part in asked["parts"]]
        self._store(oid, b"".join(self.hub.parts.pop((oid, number)) for number in numbers))
        return Reply.of_json({})

    def _store(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusedError(Reply.error(400, "the content is not that of its oid"))
        self.hub.lfs_objects[oid] = self._keep(body)

    def _verify(self, asked: dict[str, Any]) -> Reply:
        path = self.hub.lfs_objects.get(asked["oid"])
        if path is None or path.stat().st_size != asked["size"]:
            return Reply.error(404, "no such object")
        return Reply.of_json({})

    def _keep(self, content: bytes) -> Path:
        path = self.hub.upload_path()
        path.write_bytes(content)
        return path

    # -- commits --------------------------------------------------------------------------------

    def _add_commit(self, repo: Repo, revision: str, body: bytes) -> Reply:
        if revision not in repo.branches:
            return Reply.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        lines = [json.loads(line) for line in body.splitlines()]
        with self.hub.committing:
            held = self._commit(repo, revision)
            files = dict(held.files)
            for line in lines:
                value = line["value"]
                match line["key"]:
                    case "header":
                        if value.get("parentCommit") not in (None, held.sha):
                            return Reply.error(412, "A commit has happened since. Please refresh.")
                        repo.messages.append(value["summary"])
                    case "file":
                        source = self._keep(base64.b64decode(value["content"]))
                        files[value["path"]] = HubFile.read(source, value["path"])
                    case "lfsFile":
                        if value["oid"] not in self.hub.lfs_objects:
                            return Reply.error(400, "the LFS object was not uploaded")
                        source = self.hub.lfs_objects[value["oid"]]
                        files[value["path"]] = HubFile.read(source, value["path"])
                    case "deletedFile":
                        del files[value["path"]]
                    case other:
                        return Reply.error(400, f"the local Hub does no {other}")
            sha = repo.add_commit(revision, Commit.of(repo.name, files))
        address = f"{self.hub.url}/{repo.name}/commit/{sha}"
        return Reply.of_json({"success": True, "commitOid": sha, "commitUrl": address})


def _is_lfs(path: str, size: int) -> bool:
    return Path(path).suffix in LFS_SUFFIXES or size >= LFS_MIN_SIZE


def _validate_yaml(text: str) -> Reply:
    """What the Hub says of a card's metadata."""
    _, dashes, rest = text.partition("---\n")
    try:
        fields = yaml.safe_load(rest.partition("\n---\n")[0]) if dashes else None
    except yaml.YAMLError as error:
        return Reply.of_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
    warnings = [] if isinstance(fields, dict) else [{"message": "empty or missing yaml metadata"}]
    return Reply.of_json({"errors": [], "warnings": warnings})
