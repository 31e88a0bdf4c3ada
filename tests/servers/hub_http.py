"""The HTTP side of the local Hub: routes, access checks and sending.

What clients see follows the real Hub as `huggingface_hub` reads it:

* errors carry `X-Error-Code`: RepoNotFound, RevisionNotFound, EntryNotFound, GatedRepo;
* a repository that is missing, or private to this caller, is 401 to an anonymous caller and 404
  to one with a valid token, so that nobody learns which of the two it is;
* a gated repository shows its model info to everybody; its listing and files are 401 to an
  anonymous caller and 403 to one with a valid token that was not granted access;
* a bearer token that the server doesn't know is 401 everywhere, public repositories included;
* a repository that was renamed answers 307 under its old name.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from .hub_reply import Fault, RefusedError, Reply, Request, file_reply
from .hub_repos import Commit, Repo
from .hub_writing import Writing

if TYPE_CHECKING:
    from .hub import HubServer

logger = logging.getLogger(__name__)

_SEND_SIZE = 1 << 20


class Handler(Writing, BaseHTTPRequestHandler):
    """One connection, kept alive between requests."""

    protocol_version = "HTTP/1.1"
    server_version = "local-hub"
    disable_nagle_algorithm = True  # headers and body are separate writes
    hub: HubServer  # set by the subclass that HubServer makes
    cdn = False
    query: dict[str, list[str]]  # of the request in hand

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def log_message(self, *_: Any) -> None:
        """Requests are in `HubServer.requests`; stderr stays quiet."""

    def _handle(self) -> None:
        # The body is always read, or what is left of it would be taken for the next request.
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        segments = [unquote(segment) for segment in url.path.split("/")[1:]]
        self.query = parse_qs(url.query)
        try:
            if self.command in ("PUT", "POST") and (written := self.write(segments, body)):
                reply = written
            elif self.cdn:
                reply = self._cdn_file(segments)
            elif moved := self._moved(segments, url.query):
                reply = moved
            elif segments[0] == "api":
                reply = self._api(segments[1:], self.query, body)
            else:
                reply = self._resolve(segments)
        except RefusedError as refused:
            reply = refused.reply
        except Exception as error:
            logger.exception("the local Hub failed on %s %s", self.command, url.path)
            reply = Reply.error(500, f"local Hub: {error!r}")
        path = unquote(url.path)
        fault = self.hub.take_fault(self.command, path, reply)
        if fault and fault.silent:
            self._cut(reset=True)
            return
        if fault and fault.reply:
            reply = fault.reply
        elif fault and fault.alter:
            reply = fault.alter(reply)
        request = Request(
            self.command,
            path,
            url.query,
            self.headers.get("Range"),
            "Authorization" in self.headers,
            self.cdn,
            reply.status,
        )
        # Logged before the answer leaves, so that whoever has the answer finds it in the log.
        self.hub.requests.append(request)
        self._send(reply, request, fault)

    def _moved(self, segments: list[str], query: str) -> Reply | None:
        """The redirect of a request for a repository that has another name now."""
        start = 2 if segments[:2] == ["api", "models"] else 0
        name = "/".join(segments[start : start + 2])
        if name not in self.hub.renamed:
            return None
        path = [*segments[:start], self.hub.renamed[name], *map(quoted, segments[start + 2 :])]
        location = "/" + "/".join(path) + (f"?{query}" if query else "")
        return Reply(307, {"Location": location}, b"Temporary Redirect.")

    # -- access ---------------------------------------------------------------------------------

    def _token(self) -> str | None:
        """The caller's token, None for an anonymous caller; an unknown one is refused."""
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if not token:
            return None
        if scheme.lower() != "bearer" or token not in self.hub.tokens:
            raise RefusedError(Reply.error(401, "Invalid credentials in Authorization header"))
        return token

    def _repo(self, name: str, content: bool) -> Repo:
        """The repository if the caller may see it; `content` asks for more than its model info."""
        token = self._token()
        repo = self.hub.repos.get(name)
        granted = repo is not None and token is not None and token == repo.token
        if repo is None or (repo.private and not granted):
            if token is None:
                raise RefusedError(Reply.error(401, "Invalid username or password.", "RepoNotFound"))
            raise RefusedError(Reply.error(404, "Repository not found", "RepoNotFound"))
        if content and repo.gated and not granted:
            message = f"Access to model {name} is restricted."
            raise RefusedError(Reply.error(401 if token is None else 403, message, "GatedRepo"))
        return repo

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.find(revision)
        if commit is None:
            raise RefusedError(Reply.error(404, f"Invalid rev id: {revision}", "RevisionNotFound"))
        return commit

    # -- routes ---------------------------------------------------------------------------------

    def _api(self, segments: list[str], query: dict[str, list[str]], body: bytes) -> Reply:
        if segments[:1] == ["whoami-v2"]:
            token = self._token()
            if token is None:
                return Reply.error(401, "Invalid username or password.")
            role = "write" if token in self.hub.writers else "read"
            auth = {"type": "access_token", "accessToken": {"displayName": "t", "role": role}}
            return Reply.of_json({"type": "user", "name": "tester", "auth": auth})
        if segments[:1] != ["models"] or len(segments) < 3:
            return Reply.error(404, "the local Hub has no such endpoint")
        name, rest = "/".join(segments[1:3]), segments[3:]
        what, arguments = (rest[0], rest[1:]) if rest else ("revision", ["main"])
        repo = self._repo(name, content=what != "revision")
        if what == "auth-check":
            return Reply.of_json({})
        if what == "refs":
            return Reply.of_json(repo.refs())
        if not arguments:
            return Reply.error(404, "the local Hub has no such endpoint")
        commit = self._commit(repo, arguments[0])
        if what == "revision":
            return Reply.of_json(repo.info(commit, _is_true(query, "blobs")))
        if what == "tree":
            entries = commit.tree("/".join(arguments[1:]), _is_true(query, "recursive"))
            if entries is None:
                return self._no_entry(commit)
            return Reply.of_json(entries)
        if what == "paths-info":
            paths = _asked_paths(self.headers.get("Content-Type", ""), body)
            return Reply.of_json(commit.paths_info(paths))
        return Reply.error(404, "the local Hub has no such endpoint")

    def _no_entry(self, commit: Commit) -> Reply:
        # With the commit, so that the client can remember that the file isn't there.
        return Reply.error(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.sha})

    def _resolve(self, segments: list[str]) -> Reply:
        if len(segments) < 5 or segments[2] != "resolve":
            return Reply.error(404, "the local Hub has no such page")
        repo = self._repo("/".join(segments[:2]), content=True)
        commit = self._commit(repo, segments[3])
        file = commit.files.get("/".join(segments[4:]))
        if file is None:
            return self._no_entry(commit)
        headers = {"X-Repo-Commit": commit.sha}
        if file.sha256:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
            if self.hub.cdn_url:
                location = self.hub.cdn_location(file)
                return Reply(302, {**headers, "Location": location}, b"Found. Redirecting.")
        return file_reply(file, headers, self.headers.get)

    def _cdn_file(self, segments: list[str]) -> Reply:
        file = self.hub.cdn_files.get(segments[0])
        if file is None or not self.is_signed():
            return Reply.error(403, "the signature has expired")
        return file_reply(file, {}, self.headers.get)

    # -- sending --------------------------------------------------------------------------------

    def _send(self, reply: Reply, request: Request, fault: Fault | None) -> None:
        length = reply.length if reply.file else len(reply.body)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 304:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD" or reply.status == 304:
            return
        if reply.file is None:
            request.sent = length
            self.wfile.write(reply.body)
            return
        cut = fault.after_bytes if fault else None
        end = length if cut is None else cut
        with reply.file.source.open("rb") as stream:
            # Counted before it leaves, for the same reason as above.
            while request.sent < end:
                size = min(_SEND_SIZE, end - request.sent)
                start, request.sent = reply.offset + request.sent, request.sent + size
                self.connection.sendfile(stream, start, size)
        if fault and cut is not None:
            self._cut(fault.reset)

    def _cut(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            # Zero linger: closing sends RST. The reader holds the socket open too.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)


class Server(ThreadingHTTPServer):
    """A threaded server that knows its connections, so that it can end them."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, handler: type[Handler]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that went away is fine
            super().handle_error(request, client_address)

    def stop(self) -> None:
        """Stop listening and break the connections there are."""
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):  # its own thread may be faster
                connection.shutdown(socket.SHUT_RDWR)


def quoted(segment: str) -> str:
    """One part of a path, as it goes into an address."""
    return quote(segment, safe="")


def _is_true(query: dict[str, list[str]], name: str) -> bool:
    return query.get(name, [""])[0].lower() in ("true", "1")


def _asked_paths(content_type: str, body: bytes) -> list[str]:
    """The paths in the body of a paths-info request: a form from Python, JSON from others."""
    if "json" in content_type:
        return list(json.loads(body).get("paths", []))
    return parse_qs(body.decode()).get("paths", [])
