"""Ranges of a file on the Hub, read over HTTP into the caller's buffer, with no file in between.

The Hub answers with the bytes, or (for large files) sends us to another host by an address that is
signed and expires. That address is kept and used by all ranges until it is refused; then the Hub is
asked again. The token goes to the Hub only. A body that breaks off is continued where it stopped.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urljoin, urlsplit

from pipeline.errors import CorruptFile, StorageError
from pipeline.storage.hub.digest import TRIES, Digest, damaged, matches
from pipeline.storage.hub.errors import explained, silent, unreachable
from pipeline.storage.remote import RemoteReader
from pipeline.storage.retry import retried

if TYPE_CHECKING:
    from httpx2 import Response

_MAX_REDIRECTS = 5  # within the Hub
_EXPIRED = (401, 403, 410)
_PORTS = {"http": 80, "https": 443}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class _Signed:
    """Where the Hub keeps a file's bytes, for whoever has this address, and until it expires."""

    address: str = field(repr=False)
    origin: str


class _Refused(Exception):
    """A signed address that is not, or no longer, accepted."""


class RangeReader(RemoteReader):
    """One file of a repository at one commit."""

    def __init__(
        self,
        name: str,
        address: str,
        *,
        nbytes: int,
        digest: Digest | None,
        repo: str,
        commit: str,
        token: str | None,
    ) -> None:
        """Address: the Hub's own, without secrets. name: the file, as people should see it.

        digest: of the whole file, if the Hub lists it.
        """
        super().__init__(name, nbytes=nbytes, version=commit)
        self._digest = digest
        self._address = address
        self._repo = repo
        self._commit = commit
        self._token = token
        self._lock = threading.Lock()
        self._signed: _Signed | None = None
        self._etags: dict[str, str] = {}  # by who said so

    def _fill(self, offset: int, buffer: memoryview) -> None:
        """A file that is read whole at once is held against its digest; for a part there is none."""
        if self._digest and buffer and len(buffer) == self.nbytes:
            self._fill_whole(self._digest, buffer)
        else:
            self._fill_part(offset, buffer)

    def _fill_whole(self, digest: Digest, buffer: memoryview) -> None:
        for _ in range(TRIES):
            self._fill_once(0, buffer)
            if matches(digest, self.nbytes, [buffer]):
                return
        raise damaged(self.name)

    def _fill_part(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`; over plain HTTP until two answers agree: nothing else shows a spoiled one."""
        before = b""
        for _ in range(TRIES):
            self._fill_once(offset, buffer)
            if not self._address.startswith("http://"):
                return
            digest = hashlib.sha256(buffer).digest()
            if digest == before:
                return
            before = digest
        raise damaged(self.name)

    def _fill_once(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            done += retried(partial(self._read, offset + done, buffer[done:]))

    def _read(self, offset: int, buffer: memoryview) -> int:
        """Read a part of the range, from its beginning; returns how much, at least a byte."""
        signed = self._signed
        if signed is not None:
            try:
                return self._read_signed(signed, offset, buffer)
            except _Refused:
                with self._lock:
                    if self._signed is signed:
                        self._signed = None
        found = self._ask_hub(offset, buffer)
        if isinstance(found, int):
            return found
        self._signed = found
        try:
            return self._read_signed(found, offset, buffer)
        except _Refused as refused:
            raise unreachable(
                f"the host that the Hub sends us to for its bytes refuses them: {refused}",
                where=self.name,
            ) from None

    def _ask_hub(self, offset: int, buffer: memoryview) -> int | _Signed:
        """Read from the Hub itself, or learn where it keeps the bytes."""
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
        )

        address = self._address
        headers = build_hf_headers(token=self._token)
        for _ in range(_MAX_REDIRECTS):
            with (
                explained(self._repo, self._commit),
                self._request(address, headers, offset, len(buffer)) as answer,
            ):
                if answer.status_code != 416:
                    hf_raise_for_status(answer)
                self._compare("the Hub's link", answer.headers.get("x-linked-etag"))
                if not answer.has_redirect_location:
                    return self._take(answer, "the Hub", offset, buffer)
                target = urljoin(address, answer.headers["location"])
            if _origin(target) != _origin(self._address):
                return _Signed(target, _origin(target))
            address = target
        raise unreachable("the Hub redirects in a circle", where=self.name)

    def _read_signed(self, signed: _Signed, offset: int, buffer: memoryview) -> int:
        """Read from where the Hub keeps the bytes. Nothing of the address gets into an error."""
        from httpx2 import HTTPError, InvalidURL

        try:
            with self._request(signed.address, {}, offset, len(buffer)) as answer:
                status = answer.status_code
                if status in _EXPIRED:
                    raise _Refused(status)
                if status >= 300 and status != 416:
                    what = f"the host that the Hub sends us to for its bytes answers {status}"
                    raise unreachable(what, where=self.name, status=status, headers=answer.headers)
                return self._take(answer, signed.origin, offset, buffer)
        except (HTTPError, InvalidURL, OSError) as error:
            raise silent(
                "the host that the Hub sends us to for its bytes gives no answer: "
                f"{type(error).__name__}",
                where=self.name,
            ) from None

    @contextmanager
    def _request(
        self, address: str, headers: Mapping[str, str], offset: int, nbytes: int
    ) -> Iterator[Response]:
        """Ask for a range; the body is not read yet."""
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

        wanted = {
            **headers,
            "Range": f"bytes={offset}-{offset + nbytes - 1}",
            "Accept-Encoding": "identity",  # ranges are of the bytes as they are sent
        }
        with get_session().stream(
            "GET",
            address,
            headers=wanted,
            follow_redirects=False,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        ) as answer:
            yield answer

    def _take(self, answer: Response, origin: str, offset: int, buffer: memoryview) -> int:
        """Copy the body into `buffer`, piece by piece; returns how much came before it broke off."""
        from httpx2 import HTTPError

        self._compare(origin, answer.headers.get("etag"))
        expected = self._length(answer, offset, len(buffer))
        done = 0
        try:
            for piece in answer.iter_raw():
                if done + len(piece) > expected:
                    raise unreachable("more bytes came back than were announced", where=self.name)
                buffer[done : done + len(piece)] = piece
                done += len(piece)
        except HTTPError:
            if not done:
                raise
        if not done:
            raise unreachable("no bytes came back", where=self.name)
        return done

    def _length(self, answer: Response, offset: int, nbytes: int) -> int:
        """How many bytes the answer is about to bring. Raises CorruptFile if it is another file's."""
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise self._no_ranges("packs what was asked for as it is")
        if answer.status_code == 200 and nbytes == self.nbytes:
            return nbytes
        if answer.status_code == 200:
            raise self._no_ranges("answers a range with the whole file")
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        if answer.status_code == 416 or (found and found[3] not in ("*", str(self.nbytes))):
            raise self._changed(f"the Hub listed it with {self.nbytes} bytes")
        if found is None or int(found[1]) != offset or not offset <= int(found[2]) < offset + nbytes:
            raise unreachable("the answer is not about the range that was asked for", where=self.name)
        return int(found[2]) + 1 - offset  # fewer than asked for is allowed: the rest is asked for anew

    def _compare(self, origin: str, etag: str | None) -> None:
        """Hold an answer's ETag against the first one from there, if it has any."""
        if etag is None:
            return
        etag = etag.removeprefix("W/").strip('"')
        with self._lock:
            first = self._etags.setdefault(origin, etag)
        if etag != first:
            raise self._changed("its ETag is another one now")

    def _changed(self, how: str) -> CorruptFile:
        return CorruptFile(
            f"changed while it was being read: {how}",
            where=self.name,
            hint="nothing was written; run the same command again",
        )

    def _no_ranges(self, what: str) -> StorageError:
        return StorageError(
            f"the Hub, or a proxy before it, {what}",
            where=self.name,
            hint="use --hub-cache on",
        )


def _origin(address: str) -> str:
    """Whom a connection to `address` is with."""
    parts: SplitResult = urlsplit(address)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{parts.port or _PORTS.get(parts.scheme)}"
