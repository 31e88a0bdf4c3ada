"""What the local Hub records and answers: requests, replies, ranges, and faults on request."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .hub_repos import HubFile

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass
class Request:
    """One request as the server saw it. `sent` counts the bytes of the body, errors included."""

    method: str
    path: str
    query: str
    range: str | None
    authorized: bool  # an Authorization header was present; its value is never kept
    cdn: bool  # it came to the CDN's origin, not to the Hub's
    status: int = 0
    sent: int = 0


@dataclass
class Reply:
    """A response. `file` is served from `offset` for `length` bytes; else `body` is sent."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    file: HubFile | None = None
    offset: int = 0
    length: int = 0

    @classmethod
    def of_json(cls, value: Any, status: int = 200, **headers: str) -> Reply:
        fields = {"Content-Type": "application/json", **headers}
        return cls(status, fields, json.dumps(value).encode())

    @classmethod
    def error(cls, status: int, message: str, code: str | None = None, **headers: str) -> Reply:
        # A header holds one line of ASCII, whatever the path was that the message quotes.
        fields = {"X-Error-Message": ascii(message)[1:-1], **headers}
        if code:
            fields["X-Error-Code"] = code
        return cls.of_json({"error": message}, status, **fields)


@dataclass
class Fault:
    """Something to do wrong, `times` times, for a path that ends in `suffix`."""

    suffix: str
    times: int
    method: str | None = "GET"
    after_bytes: int | None = None  # cut the body there
    reset: bool = False  # by RST instead of FIN
    reply: Reply | None = None  # answer this instead
    alter: Callable[[Reply], Reply] | None = None  # answer what this makes of it
    silent: bool = False  # do what is asked, and close the connection without an answer

    def fits(self, method: str, path: str, reply: Reply) -> bool:
        if self.method not in (None, method) or not path.endswith(self.suffix):
            return False
        if self.alter is not None:
            return reply.file is not None
        return self.after_bytes is None or (reply.file is not None and reply.length > self.after_bytes)


class RefusedError(Exception):
    """Ends the handling of a request with an error reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def file_reply(file: HubFile, headers: dict[str, str], asked: Callable[[str], str | None]) -> Reply:
    """`file`, or the range of it that the request's headers (`asked`) select.

    Honours If-None-Match, If-Match, If-Range and one range; several ranges get the whole file,
    as HTTP allows.
    """
    file.check()
    etag = f'"{file.etag}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", **headers}
    if asked("If-Match") not in (None, "*", etag):
        return Reply.error(412, "If-Match does not hold", **headers)
    if asked("If-None-Match") in ("*", etag):
        return Reply(304, headers)
    headers["Content-Type"] = "application/octet-stream"
    match = _RANGE.fullmatch(asked("Range") or "")
    if match is None or match.group() == "bytes=-" or asked("If-Range") not in (None, etag):
        return Reply(200, headers, file=file, length=file.size)
    first, last = match.groups()
    if first:
        start, end = int(first), min(int(last) if last else file.size, file.size - 1)
    else:
        start, end = max(file.size - int(last), 0), file.size - 1
    if start > end:
        return Reply.error(416, "range not satisfiable", **{"Content-Range": f"bytes */{file.size}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{file.size}"
    return Reply(206, headers, file=file, offset=start, length=end - start + 1)
