"""A local server that speaks the Hugging Face Hub's protocol, for the real clients to talk to.

`HubServer` serves model repositories (`org/name`) from local folders over plain HTTP: model info,
listings, refs, `resolve` with ranges, gated and private repositories, branches that move while
commits stay. Tokens that may write create repositories and branches, upload to LFS and commit
(`hub_writing`). It sends no Xet headers, so clients take the plain HTTP path. What it doesn't do:
datasets and spaces, pull requests, paged listings, names without an organisation.

How to point `huggingface_hub` 2.4 (and transformers) at it. The library reads HF_ENDPOINT, HF_HOME
and the rest **when it is imported** and copies them: into the URL template and into the HfApi
instance that functions like `huggingface_hub.model_info` belong to. So, best first:

1. A subprocess: `env={**os.environ, **hub.env(home)}`. Nothing else is complete for a program.
2. In process, when the code under test passes it on: `endpoint=hub.url` and `cache_dir=...`
   (`snapshot_download`, `hf_hub_download`), or `HfApi(endpoint=hub.url)`. Note that
   `HfApi.get_safetensors_metadata` has no cache_dir and that transformers takes no endpoint.
3. In process for everything else: `hub.patch_client(monkeypatch, home)`, which replaces the
   constants and their copies and drops the shared HTTP session. Setting HF_ENDPOINT alone, or
   `constants.ENDPOINT` alone, silently leaves the URLs on huggingface.co.

What the client does about a broken download, which tests have to allow for:

* it resumes within one call only (a killed process starts the file again), after sleeping 1 s;
* it writes pieces of `constants.DOWNLOAD_CHUNK_SIZE` (10 MiB) and forgets an unfinished piece, so
  a cut before 10 MiB resumes from 0 *without* a Range header: patch the constant, or use a file
  that is larger;
* it resumes after an orderly close (FIN) and a timeout, **not** after a reset (RST): that is
  httpx2.ReadError, which leaves the call (`cut_next(..., reset=True)`).
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hub_http import Handler, Server
from .hub_reply import Fault, Reply, Request
from .hub_repos import HubFile, Repo

if TYPE_CHECKING:
    import pytest

__all__ = ["HubServer", "Repo", "Request"]


class HubServer:
    """A Hub on 127.0.0.1 at a free port, from `with` until its end.

    `requests` is the log, in the order in which answers began. With `cdn=True`, `resolve` answers
    302 for files in LFS and their bytes come from a second origin (another port), as on the real
    Hub: by an address that is signed and may expire; clients must not send their token there.
    `multipart_bytes` makes uploads larger than that go up in parts.
    """

    def __init__(self, *, cdn: bool = False) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens: set[str] = set()
        self.writers: set[str] = set()
        self.renamed: dict[str, str] = {}
        self.multipart_bytes: int | None = None
        self.lfs_objects: dict[str, Path] = {}  # by their sha256
        self.parts: dict[tuple[str, int], bytes] = {}  # of uploads that are not complete
        self.committing = threading.Lock()
        self.signatures: set[str] = set()
        self.requests: list[Request] = []
        self.cdn_files: dict[str, HubFile] = {}
        self.url = ""
        self.cdn_url = ""
        self._faults: list[Fault] = []
        self._uploads: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()
        self._wants_cdn = cdn
        self._servers: list[Server] = []

    def __enter__(self) -> HubServer:
        self.url = self._start(cdn=False)
        if self._wants_cdn:
            self.cdn_url = self._start(cdn=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening and break all connections; clients then see a Hub that is down."""
        while self._servers:
            self._servers.pop().stop()
        if self._uploads is not None:
            self._uploads.cleanup()
            self._uploads = None

    def _start(self, cdn: bool) -> str:
        server = Server(type("HubHandler", (Handler,), {"hub": self, "cdn": cdn}))
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    # -- content --------------------------------------------------------------------------------

    def add_repo(
        self,
        name: str,
        folder: Path | None = None,
        *,
        revisions: Mapping[str, Path | str] | None = None,
        tags: Mapping[str, Path | str] | None = None,
        gated: bool = False,
        private: bool = False,
        token: str | None = None,
    ) -> Repo:
        """Add `org/name`. `folder` is the content of `main`; `revisions` adds branches and `tags`
        tags, each a folder or a revision already known. `token` is the one that opens it.

        Move a branch later with `Repo.set_branch`; `Repo.sha(revision)` is the commit.
        """
        if name.count("/") != 1:
            raise ValueError(f"a repository is named org/name, not {name!r}")
        repo = Repo(name, gated=gated, private=private, token=token)
        if folder is not None:
            repo.set_branch("main", folder)
        for branch, target in (revisions or {}).items():
            repo.set_branch(branch, target)
        for tag, target in (tags or {}).items():
            repo.set_tag(tag, target)
        if token:
            self.add_token(token)
        self.repos[name] = repo
        return repo

    def add_token(self, token: str, *, write: bool = False) -> None:
        """Make `token` valid without granting it anything to read: a user who hasn't been let in.

        With `write`, it may create repositories and write to any.
        """
        self.tokens.add(token)
        if write:
            self.writers.add(token)

    def rename(self, old: str, new: str) -> None:
        """Give a repository another name; the old one redirects."""
        repo = self.repos.pop(old)
        repo.name = new
        self.repos[new] = repo
        self.renamed[old] = new

    def cdn_location(self, file: HubFile) -> str:
        """Where the CDN serves `file`, until signatures expire (for the handler)."""
        self.cdn_files[file.etag] = file
        return self.sign(f"{self.cdn_url}/{file.etag}/{Path(file.path).name}")

    def sign(self, address: str) -> str:
        """The address with a fresh signature, which is a secret."""
        signature = f"signature-canary-{secrets.token_hex(8)}"
        self.signatures.add(signature)
        return f"{address}?X-Signature={signature}"

    def expire_signatures(self) -> None:
        """Make the CDN refuse all addresses that it was given so far."""
        self.signatures.clear()

    def upload_path(self) -> Path:
        """A new place for an uploaded file, as long as the server runs."""
        with self._lock:
            if self._uploads is None:
                self._uploads = tempfile.TemporaryDirectory(prefix="local-hub-")
            return Path(self._uploads.name) / secrets.token_hex(8)

    # -- faults ---------------------------------------------------------------------------------

    def cut_next(
        self, path_suffix: str, after_bytes: int, *, times: int = 1, reset: bool = False
    ) -> None:
        """Break the next `times` GETs of a path with this end after `after_bytes` of their body.

        Bodies that are not longer than that don't count. With `reset`, the connection is reset
        instead of closed, and the client may get less than `after_bytes`.
        """
        self._faults.append(Fault(path_suffix, times, after_bytes=after_bytes, reset=reset))

    def fail_next(
        self,
        path_suffix: str,
        status: int = 503,
        *,
        times: int = 1,
        method: str | None = "GET",
        retry_after: int | None = None,
    ) -> None:
        """Answer the next `times` requests with `status` (None: whatever the method)."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        reply = Reply.error(status, "asked for by the test", **headers)
        self._faults.append(Fault(path_suffix, times, method=method, reply=reply))

    def alter_next(self, path_suffix: str, alter: Callable[[Reply], Reply], *, times: int = 1) -> None:
        """Send what `alter` makes of the next `times` answers with a file's bytes."""
        self._faults.append(Fault(path_suffix, times, alter=alter))

    def lose_next_answer(self, path_suffix: str, *, times: int = 1, method: str = "POST") -> None:
        """Do what the next `times` requests ask for, and reset the connection instead of answering."""
        self._faults.append(Fault(path_suffix, times, method=method, silent=True))

    def take_fault(self, method: str, path: str, reply: Reply) -> Fault | None:
        """The fault that this answer must suffer, used up by asking (for the handler)."""
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.fits(method, path, reply):
                    fault.times -= 1
                    return fault
        return None

    # -- what tests ask -------------------------------------------------------------------------

    def gets(self, path_suffix: str = "") -> list[Request]:
        """The GETs of file content so far, for paths with this end; redirects don't count."""
        return [
            request
            for request in list(self.requests)
            if request.method == "GET"
            and not request.path.startswith("/api/")
            and request.path.endswith(path_suffix)
            and request.status // 100 != 3
        ]

    def env(self, home: Path) -> dict[str, str]:
        """The environment that points a client at this server, with `home` as its HF_HOME.

        HF_TOKEN is set empty, so that no login of the machine gets in: set it for one.
        """
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN": "",
            "HUGGING_FACE_HUB_TOKEN": "",
            "HF_OIDC_RESOURCE": "",
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def patch_client(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Point the `huggingface_hub` (and transformers) of this process at this server.

        Lasts as long as `monkeypatch`. The environment is set as well, for child processes.
        """
        from huggingface_hub import close_session, constants, hf_api

        for name, value in self.env(home).items():
            monkeypatch.setenv(name, value)
        patches: dict[str, Any] = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
            "HF_ASSETS_CACHE": str(home / "assets"),
            "HF_XET_CACHE": str(home / "xet"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }
        for name, value in patches.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", self.url)
        if transformers_hub := sys.modules.get("transformers.utils.hub"):
            monkeypatch.setattr(transformers_hub, "_hf_api", None)
        # The shared session keeps connections and the proxy settings it was made with.
        close_session()
