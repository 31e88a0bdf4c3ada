"""A proxy between a client and a server on this machine, which spoils what it is told to spoil.

    with FaultProxy(azurite.url) as proxy:
        proxy.once("lost", "PUT", "comp=blocklist")            # the next commit's answer
        proxy.once(Fault("status", status=503, retry_after=1), "GET", "/x", nth=3, times=2)
        proxy.rule = lambda method, target: 403 if method == "DELETE" else None
        proxy.chances = Chances("seed", 0.05, [Fault("reset"), Fault("short")])
        ... proxy.url ...

What spoils a request is the first of these that has something for it: `rule`, then what `once`
ordered, then `chances`. Bodies go through piece by piece. The client's Host header is kept, so that
signatures hold. toxiproxy and its like know no HTTP, and mitmproxy can't reset a connection.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from .faults import Asked, Chances, Fault, Kind, Order, refusal
from .http_messages import Broken, Head, body, flipped, framed, paced, stalled, until

__all__ = ["Asked", "Chances", "Fault", "FaultProxy", "Hit"]

STALE_S = 2.0  # Azurite closes a connection that nobody uses for five seconds
UNKNOWN = 4096  # bytes that a body in chunks is taken to have: lists come so

Rule = Callable[[str, str], "Fault | Kind | int | None"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A request, and what was done to it ("" for nothing). range: as the request has it."""

    method: str
    target: str
    fault: str = ""
    range: str | None = None


class FaultProxy:
    """A proxy to the server at `url`, from `with` until its end. `log` says what came and what it did.

    like: whose words refusals have, "azure" or "hub". tls: the contexts to be server and client with.
    window: about how many bytes wait on this side until they are taken; a client feels a slow wire by
    bodies that are larger than that and its own buffer.
    """

    def __init__(
        self,
        url: str,
        *,
        like: str = "azure",
        window: int | None = None,
        tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    ) -> None:
        parts = urlsplit(url)
        self.upstream = (parts.hostname or "", parts.port or 0)
        self.like = like
        self.window = window
        self.tls = tls
        self.log: list[Hit] = []
        self.rule: Rule = lambda method, target: None
        self.chances: Chances | None = None
        self._path = parts.path
        self._orders: list[Order] = []
        self._lock = threading.Lock()
        self._server: _Server | None = None

    def __enter__(self) -> FaultProxy:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server
        self._server.stop()

    @property
    def url(self) -> str:
        """The server's address, through the proxy."""
        assert self._server
        scheme = "https" if self.tls else "http"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}{self._path}"

    def once(
        self, fault: Fault | Kind | int, method: str, pattern: str, *, nth: int = 1, times: int = 1
    ) -> None:
        """Commit `fault` on the nth request from now on that has this method and this pattern in its
        path or query, and on the `times` - 1 after it.
        """
        self._orders.append(Order(Fault.of(fault), method, pattern, nth, times))

    def clear(self) -> None:
        """Commit no more faults, and forget the log."""
        with self._lock:
            self._orders.clear()
            self.log.clear()
        self.rule, self.chances = (lambda method, target: None), None

    def decide(self, asked: Asked) -> Fault | None:
        """What the request is to meet (for the handler)."""
        ruled = self.rule(asked.method, asked.target)
        with self._lock:
            found = None if ruled is None else Fault.of(ruled)
            for order in self._orders:
                found = order.take(asked) or found if found is None else found
            if found is None and self.chances is not None:
                found = self.chances.take(asked)
            self.log.append(Hit(asked.method, asked.target, str(found or ""), asked.range))
        return found


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        if proxy.window is not None:  # what is accepted inherits it
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, proxy.window)
        self.server_bind()
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        with contextlib.suppress(OSError, ValueError):
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks off is what this is for."""

    def stop(self) -> None:
        """Stop listening and break the connections there are."""
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Hangup(Exception):
    """Ends the connection to the client: by RST, or by FIN."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset


class _Handler(StreamRequestHandler):
    """One connection of a client, with one of its own to the server."""

    disable_nagle_algorithm = True
    rbufsize = 256 << 10
    server: _Server
    _upstream: socket.socket | None = None
    _answers: BinaryIO
    _used = 0.0

    def setup(self) -> None:
        if self.server.proxy.tls:
            self.request = self.server.proxy.tls[0].wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self) -> None:
        try:
            while (head := Head.read(self.rfile)) is not None and self._serve(head):
                pass
        except _Hangup as hangup:
            self._hang_up(reset=hangup.reset)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self._drop_upstream()

    # -- one request --------------------------------------------------------------------------

    def _serve(self, head: Head) -> bool:
        """Pass one request and its answer on; whether the connection goes on."""
        method, target, _ = head.first.split(" ")
        asked = Asked(method, target, head.get("x-ms-range") or head.get("range"), head.nbytes or 0)
        fault = self.server.proxy.decide(asked) or Fault("delay")
        if fault.kind == "delay" and fault.seconds:
            time.sleep(fault.seconds)
        elif fault.kind == "before" and fault.action:
            fault.action()
        elif fault.kind == "status":
            return self._refuse(head, method, fault)
        self._send_request(head, fault)
        return self._pass_answer(method, fault) and (head.get("connection") or "").lower() != "close"

    def _refuse(self, head: Head, method: str, fault: Fault) -> bool:
        """Answer in the server's place."""
        for _ in body(self.rfile, head, is_answer=False):
            pass
        headers, content = refusal(fault, like=self.server.proxy.like)
        phrase = HTTPStatus(fault.status).phrase
        headers += [("Content-Length", str(len(content)))]
        self._to_client(Head(f"HTTP/1.1 {fault.status} {phrase}", headers).to_bytes())
        if method != "HEAD":
            self._to_client(content)
        return True

    def _send_request(self, head: Head, fault: Fault) -> None:
        breaks = fault.kind in ("reset-request", "cut-request")
        if breaks and not head.nbytes:
            raise _Hangup(reset=fault.kind == "reset-request")
        if time.monotonic() - self._used > STALE_S:
            self._drop_upstream()
        self._to_upstream(head.to_bytes())
        pieces = body(self.rfile, head, is_answer=False)
        if breaks:
            for piece in until(pieces, int(fault.at * (head.nbytes or 0))):
                self._to_upstream(framed(piece, head))
            raise _Hangup(reset=fault.kind == "reset-request")
        if fault.kind == "flip-request" and head.nbytes:
            pieces = flipped(pieces, int(fault.at * head.nbytes))
        for piece in paced(pieces, fault.bytes_per_s):
            self._to_upstream(framed(piece, head))
        if head.is_chunked:
            self._to_upstream(framed(b"", head))

    def _pass_answer(self, method: str, fault: Fault) -> bool:
        while (head := Head.read(self._answers)) is not None and head.status < 200:
            pass
        if head is None:
            raise Broken("no answer")
        has_body = head.has_body(method)
        pieces = body(self._answers, head, is_answer=True) if has_body else iter(())
        nbytes = 0 if not has_body else UNKNOWN if head.nbytes is None else head.nbytes
        if fault.kind == "lost":
            for _ in pieces:
                pass
            raise _Hangup(reset=True)
        if fault.kind == "short" and nbytes > 1 and head.get("content-range"):
            pieces, nbytes = self._shortened(head, pieces, nbytes)
        elif fault.kind == "flip" and nbytes:
            pieces = flipped(pieces, int(fault.at * nbytes))
        elif fault.kind in ("reset", "cut"):
            self._break_answer(head, pieces, int(fault.at * nbytes), reset=fault.kind == "reset")
        elif fault.kind == "stall":
            pieces = stalled(pieces, int(fault.at * nbytes), fault.seconds)
            if not nbytes:
                time.sleep(fault.seconds)
        self._to_client(head.to_bytes())
        for piece in paced(pieces, fault.bytes_per_s):
            self._to_client(framed(piece, head))
        if has_body and head.is_chunked:
            self._to_client(framed(b"", head))
        self._used = time.monotonic()
        goes_on = not has_body or head.is_chunked or head.nbytes is not None
        return goes_on and (head.get("connection") or "").lower() != "close"

    def _shortened(self, head: Head, pieces: Iterable[bytes], nbytes: int) -> tuple[Any, int]:
        """The first half of a range, under a head that says no more than that."""
        half = nbytes // 2
        first, _, rest = (head.get("content-range") or "").removeprefix("bytes ").partition("-")
        total = rest.partition("/")[2]
        head.put("content-range", f"bytes {first}-{int(first) + half - 1}/{total}")
        head.put("content-length", str(half))
        head.put("content-md5", None)
        return until(pieces, half, drain=True), half

    def _break_answer(self, head: Head, pieces: Iterable[bytes], stop: int, *, reset: bool) -> None:
        text = head.to_bytes()
        self._to_client(text if stop else text[: len(text) // 2])
        for piece in until(pieces, stop):
            self._to_client(framed(piece, head))
        raise _Hangup(reset=reset)

    # -- the two connections --------------------------------------------------------------------

    def _to_client(self, data: bytes) -> None:
        self.connection.sendall(data)

    def _to_upstream(self, data: bytes) -> None:
        if self._upstream is None:
            proxy = self.server.proxy
            self._upstream = socket.create_connection(proxy.upstream, timeout=60)
            self._upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if proxy.tls:
                self._upstream = proxy.tls[1].wrap_socket(self._upstream, server_hostname="localhost")
            self._answers = self._upstream.makefile("rb", 256 << 10)
        # If it does not want more, it has answered: that is read next.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._upstream.sendall(data)

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            with contextlib.suppress(OSError):
                self._answers.close()
                self._upstream.close()
            self._upstream = None

    def _hang_up(self, *, reset: bool) -> None:
        self._drop_upstream()
        with contextlib.suppress(OSError):
            if reset:  # zero linger: closing sends RST. The readers hold the socket open too.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.rfile.close()
                self.wfile.close()
                self.connection.close()
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
