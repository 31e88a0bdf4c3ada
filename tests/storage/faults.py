"""A proxy that spoils answers on request, between a client and a server on this machine."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

# Given method and path with query, the fault to commit on this request, if any:
# "reset" breaks off in the middle of the body, "lost" drops the answer, "short" sends half of the
# range as if it were whole, "flip" changes one byte of the request's body, a number is an HTTP status.
Rule = Callable[[str, str], str | int | None]

STALE_S = 2.0  # Azurite closes a connection that nobody uses for five seconds


class Faults:
    """A proxy to the server at `url`, from `with` until its end; `rule` decides what goes wrong."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self.rule: Rule = lambda method, path: None
        self.log: list[tuple[str, str]] = []
        self._server: _Server | None = None

    def __enter__(self) -> Faults:
        handler = type("FaultsHandler", (_Handler,), {"faults": self, "upstream": self._parts.netloc})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The server's address, through the proxy."""
        assert self._server
        return f"http://127.0.0.1:{self._server.server_port}{self._parts.path}"

    def once(self, fault: str | int, method: str, part: str, *, times: int = 1) -> None:
        """Commit `fault` on the next `times` requests with this method and `part` in their path."""
        left = [fault] * times

        def rule(found: str, path: str) -> str | int | None:
            return left.pop() if left and found == method and part in path else None

        self.rule = rule


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks off is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for its headers to be acknowledged
    faults: Faults
    upstream: str
    _connection: http.client.HTTPConnection | None = None
    _used = 0.0

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.faults.log.append((self.command, self.path))
        fault = self.faults.rule(self.command, self.path)
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        status, headers, data = self._ask(body)
        if fault == "lost":
            self._break_off()
            return
        if fault == "short":
            data = data[: len(data) // 2]
            begin, _, rest = headers["content-range"].removeprefix("bytes ").partition("-")
            total = rest.partition("/")[2]
            headers["content-range"] = f"bytes {begin}-{int(begin) + len(data) - 1}/{total}"
            headers["content-length"] = str(len(data))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "reset":
            self.wfile.write(data[: len(data) // 2])
            self._break_off()
            return
        self.wfile.write(data)

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self._connection and time.monotonic() - self._used > STALE_S:
            self._connection.close()
            self._connection = None
        connection = self._connection = self._connection or http.client.HTTPConnection(
            self.upstream, timeout=60
        )
        sent = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        connection.request(self.command, self.path, body, sent)
        answer = connection.getresponse()
        data = answer.read()
        hidden = {"transfer-encoding", "connection", "keep-alive"}
        headers = {name.lower(): value for name, value in answer.getheaders()}
        headers = {name: value for name, value in headers.items() if name not in hidden}
        self._used = time.monotonic()
        if self.command != "HEAD":
            headers["content-length"] = str(len(data))
        return answer.status, headers, data

    def finish(self) -> None:
        super().finish()
        if self._connection:
            self._connection.close()

    def _break_off(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

    def log_message(self, *_: Any) -> None:
        """Requests are in `Faults.log`."""

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward
