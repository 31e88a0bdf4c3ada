"""A blob server that discards what it gets and serves the same bytes again and again: all wire.

    python wire_server.py [RATE]       # prints its port, and serves until its standard input ends

RATE is how many bytes a second it takes from all its clients together; without it, as many as come.

It answers what the Azure SDK, obstore and plain HTTP ask when one blob is uploaded in blocks or read in
ranges. The first look at a blob called `new` finds nothing.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time

BLOB_BYTES = 1 << 30
_DATA = memoryview(os.urandom(1 << 20) * 8)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_COMMON = (
    'ETag: "0x1"\r\nLast-Modified: Sun, 22 Nov 2026 00:00:00 GMT\r\nx-ms-version: 2026-06-06\r\n'
    "x-ms-request-id: 1\r\nx-ms-blob-type: BlockBlob\r\nAccept-Ranges: bytes\r\n"
)


class Brake:
    """Makes bodies take as long as they would at a rate. Safe to use from several threads."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free = 0.0  # when the wire has nothing more to carry

    def take(self, nbytes: int) -> None:
        """Wait until the wire has carried these too."""
        with self._lock:
            now = time.monotonic()
            self._free = max(self._free, now) + nbytes / self._rate
            wait = self._free - now
        time.sleep(wait)


def serve(connection: socket.socket, brake: Brake | None) -> None:
    """Answer the requests of one connection."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    discarded = memoryview(bytearray(1 << 20))
    pending = b""
    while True:
        while b"\r\n\r\n" not in pending:
            received = connection.recv(1 << 16)
            if not received:
                return
            pending += received
        head, _, rest = pending.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if headers.get("expect"):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        size = int(headers.get("content-length", 0))
        got, pending = min(len(rest), size), rest[size:]
        while got < size:
            count = connection.recv_into(discarded[: min(len(discarded), size - got)])
            if not count:
                return
            got += count
            if brake:
                brake.take(count)
        answer(connection, method, path, headers)


def answer(connection: socket.socket, method: str, path: str, headers: dict[str, str]) -> None:
    """The answer to one request."""
    if method == "PUT":
        connection.sendall(f"HTTP/1.1 201 Created\r\n{_COMMON}Content-Length: 0\r\n\r\n".encode())
    elif (method == "HEAD" and "/new" in path) or "comp=blocklist" in path:
        code = "x-ms-error-code: BlobNotFound\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(f"HTTP/1.1 404 Not Found\r\n{_COMMON}{code}".encode())
    elif "comp=list" in path:
        text = b'<?xml version="1.0"?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>'
        head = (
            f"HTTP/1.1 200 OK\r\n{_COMMON}Content-Type: application/xml\r\nContent-Length: {len(text)}"
        )
        connection.sendall(head.encode() + b"\r\n\r\n" + text)
    elif method == "HEAD":
        connection.sendall(f"HTTP/1.1 200 OK\r\n{_COMMON}Content-Length: {BLOB_BYTES}\r\n\r\n".encode())
    else:
        asked = _RANGE.match(headers.get("x-ms-range") or headers.get("range", "bytes=0-"))
        assert asked
        begin = int(asked[1])
        end = min(int(asked[2] or BLOB_BYTES), BLOB_BYTES - 1)
        left = end + 1 - begin
        connection.sendall(
            f"HTTP/1.1 206 Partial Content\r\n{_COMMON}Content-Type: application/octet-stream\r\n"
            f"Content-Length: {left}\r\nContent-Range: bytes {begin}-{end}/{BLOB_BYTES}\r\n\r\n".encode()
        )
        while left:
            count = min(left, len(_DATA))
            connection.sendall(_DATA[:count])
            left -= count


def accept(listener: socket.socket, brake: Brake | None) -> None:
    """Give each connection a thread."""

    def work(connection: socket.socket) -> None:
        with connection:
            try:
                serve(connection, brake)
            except OSError:
                return  # the client has gone

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=work, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    brake = Brake(float(sys.argv[1])) if len(sys.argv) > 1 else None
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=accept, args=(listener, brake), daemon=True).start()
    sys.stdin.read()
