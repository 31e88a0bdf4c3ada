"""HTTP messages as the fault proxy passes them on: a head that can be changed, a body piece by piece."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

PIECE = 256 << 10
_LONGEST_LINE = 64 << 10
_TICK_S = 0.02  # how often a slow body moves


class Broken(ConnectionError):
    """A peer that ended in the middle of a message."""


@dataclass
class Head:
    """First line and headers of a request or an answer."""

    first: str
    headers: list[tuple[str, str]]

    @classmethod
    def read(cls, stream: BinaryIO) -> Head | None:
        """The next head, or None if the peer has nothing more to say."""
        first = stream.readline(_LONGEST_LINE)
        if not first.strip():
            return None
        headers = []
        while (line := stream.readline(_LONGEST_LINE)) not in (b"\r\n", b"\n"):
            if not line.endswith(b"\n"):
                raise Broken("in the middle of a head")
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name, value.strip()))
        return cls(first.decode("latin-1").strip(), headers)

    def to_bytes(self) -> bytes:
        """The head as it is sent, with the empty line that ends it."""
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def get(self, wanted: str) -> str | None:
        """A header's value."""
        return next((value for name, value in self.headers if name.lower() == wanted), None)

    def put(self, wanted: str, value: str | None) -> None:
        """Give a header another value, or take it away."""
        self.headers = [(name, old) for name, old in self.headers if name.lower() != wanted]
        if value is not None:
            self.headers.append((wanted, value))

    @property
    def status(self) -> int:
        """An answer's."""
        return int(self.first.split()[1])

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return "chunked" in (self.get("transfer-encoding") or "").lower()

    @property
    def nbytes(self) -> int | None:
        """The body's length, None if it is not told."""
        told = self.get("content-length")
        return int(told) if told is not None and not self.is_chunked else None

    def has_body(self, method: str) -> bool:
        """Whether a body follows this answer to `method`."""
        return method != "HEAD" and self.status >= 200 and self.status not in (204, 304)


def body(stream: BinaryIO, head: Head, *, is_answer: bool) -> Iterator[bytes]:
    """The body that follows a head as it is now, piece by piece, without its framing."""
    if head.is_chunked:
        return _chunks(stream)
    if head.nbytes is not None:
        return _exactly(stream, head.nbytes)
    return iter(lambda: stream.read(PIECE), b"") if is_answer else iter(())


def framed(piece: bytes, head: Head) -> bytes:
    """A piece of a body as it is sent; an empty one ends a body in chunks."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if head.is_chunked else piece


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while size := int(stream.readline(_LONGEST_LINE).partition(b";")[0] or b"0", 16):
        yield from _exactly(stream, size)
        stream.readline(8)
    while stream.readline(_LONGEST_LINE) not in (b"\r\n", b"\n", b""):
        pass


def _exactly(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = stream.read(min(size, PIECE))
        if not piece:
            raise Broken("in the middle of a body")
        size -= len(piece)
        yield piece


# -- bodies that are spoiled ----------------------------------------------------------------------


def until(pieces: Iterable[bytes], stop: int, *, drain: bool = False) -> Iterable[bytes]:
    """The body's first `stop` bytes; with `drain`, the rest is read and thrown away."""
    for piece in pieces:
        if stop:
            yield piece[:stop]
        stop -= min(stop, len(piece))
        if not stop and not drain:
            return


def flipped(pieces: Iterable[bytes], at: int) -> Iterable[bytes]:
    """The body with one bit of its byte `at` changed."""
    for piece in pieces:
        if 0 <= at < len(piece):
            piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
        at -= len(piece)
        yield piece


def stalled(pieces: Iterable[bytes], at: int, seconds: float) -> Iterable[bytes]:
    """The body with a wait before its byte `at`."""
    for piece in pieces:
        if 0 <= at < len(piece):
            yield piece[:at]
            time.sleep(seconds)
            piece, at = piece[at:], -1
        at -= len(piece)
        yield piece


def paced(pieces: Iterable[bytes], bytes_per_s: int) -> Iterable[bytes]:
    """The body, no faster than that, if it says anything."""
    step = max(1, int(bytes_per_s * _TICK_S)) if bytes_per_s else PIECE
    for piece in pieces:
        for start in range(0, len(piece), step):
            if bytes_per_s:
                time.sleep(_TICK_S)
            yield piece[start : start + step]
