"""Ranges of one blob as it was when it was opened, read from the wire into the caller's memory.

The SDK's own download keeps a range in small pieces, joins them, and takes a range that is too short, if
it says so itself, for a whole one. So the request is made here: signed and sent by the SDK's pipeline,
with its credential, proxies and logging, while the body goes where it is wanted. It carries `If-Match`;
what is missing after a connection broke is asked for, and no more.

Over plain HTTP, which is for emulators on this machine, nothing else would see a flipped bit in a model:
there the service is asked for the MD5 of each range. TLS has digests of its own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.errors import CorruptFile, Unreachable
from pipeline.storage.azure.errors import AGAIN
from pipeline.storage.azure.etags import Etag
from pipeline.storage.azure.traffic import Traffic
from pipeline.storage.remote import RemoteReader
from pipeline.units import MIB

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient

RANGE_BYTES = 8 * MIB
DIGESTED_BYTES = 4 * MIB  # the largest range whose MD5 the service gives
_TRIES = 3  # of a range that comes spoiled
_PIECE_BYTES = MIB // 4
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class AzureReader(RemoteReader):
    """Ranges of one blob as it was when it had `etag`."""

    def __init__(
        self, client: BlobClient, name: str, *, nbytes: int, etag: Etag, traffic: Traffic
    ) -> None:
        super().__init__(name, nbytes=nbytes, version=etag)
        self.client = client
        self._etag = etag
        self._traffic = traffic
        self._is_plain = str(client.url).startswith("http://")

    def _fill(self, offset: int, buffer: memoryview) -> None:
        size = DIGESTED_BYTES if self._is_plain else RANGE_BYTES
        for start in range(0, len(buffer), size):
            self._fill_range(offset + start, buffer[start : start + size])

    def _fill_range(self, offset: int, part: memoryview) -> None:
        """Fill one range, in as many requests as it takes, until it has the digest that came with it."""
        for _ in range(_TRIES):
            done, wanted = 0, None
            while done < len(part):
                read = partial(self._read, offset + done, part[done:])
                got, digest = self._traffic.ask(self.name, read, nbytes=len(part) - done)
                wanted = wanted if done else digest
                done += got
            if wanted is None or wanted == _md5(part):
                return
        what = f"{len(part)} bytes at offset {offset} came spoiled, {_TRIES} times"
        raise CorruptFile(what, where=self.name, hint=AGAIN)

    def _read(self, offset: int, buffer: memoryview) -> tuple[int, str | None]:
        """One ranged GET: how many bytes it brought, at least one, and the digest of all it should."""
        answer = self._send(offset, len(buffer))
        body = answer.raw
        try:
            expected = self._check(answer, offset, len(buffer))
            got = 0
            while got < expected:
                piece = self._receive(body, buffer[got : min(got + _PIECE_BYTES, expected)])
                if not piece:
                    break
                got += piece
        finally:
            if body.closed or body.length_remaining == 0:
                body.release_conn()
            else:
                answer.close()  # what it would still send belongs to nobody
        if not got:
            raise Unreachable(
                f"the connection broke before any of {len(buffer)} bytes at offset {offset} came",
                where=self.name,
                hint=AGAIN,
            )
        whole = expected == len(buffer)
        return got, answer.headers.get("Content-MD5") if self._is_plain and whole else None

    @staticmethod
    def _receive(body: Any, piece: memoryview) -> int:
        """The next bytes of a body; none if it has broken off."""
        from urllib3.exceptions import HTTPError

        try:
            return int(body.readinto(piece))
        except (HTTPError, OSError):
            return 0

    def _send(self, offset: int, nbytes: int) -> Any:
        """The answer to a request for a range, its body still on the wire."""
        from azure.core.exceptions import HttpResponseError
        from azure.core.pipeline.transport import HttpRequest

        headers = {
            "x-ms-range": f"bytes={offset}-{offset + nbytes - 1}",
            "x-ms-version": self.client.api_version,
            "If-Match": self._etag,
            "Accept-Encoding": "identity",
        }
        if self._is_plain:
            headers["x-ms-range-get-content-md5"] = "true"
        request = HttpRequest("GET", self.client.url, headers=headers)
        # There is no public way to send a request of one's own through a client's policies.
        response = self.client._pipeline.run(request, stream=True).http_response
        if response.status_code not in (200, 206):
            error = HttpResponseError(response=response)
            error.error_code = response.headers.get("x-ms-error-code")  # type: ignore[attr-defined]
            response.internal_response.close()
            raise error
        return response.internal_response

    def _check(self, answer: Any, offset: int, nbytes: int) -> int:
        """How many bytes the answer will bring. Raises CorruptFile if they are not those asked for."""
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        first, last, total = (int(number) for number in found.groups()) if found else (-1, -1, -1)
        same = answer.headers.get("ETag", self._etag) == self._etag
        if first != offset or not offset <= last < offset + nbytes or total != self.nbytes or not same:
            shown = answer.headers.get("Content-Range", "no range")[:80]
            raise CorruptFile(
                f"{shown} came back for {nbytes} bytes at offset {offset} of {self.nbytes}",
                where=self.name,
                hint="it may have been changed meanwhile: run the command again",
            )
        return last + 1 - offset


def _md5(data: memoryview) -> str:
    """As Content-MD5 has it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
