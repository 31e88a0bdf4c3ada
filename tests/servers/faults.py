"""What the fault proxy can do to a request and its answer, and by which rules it does so."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

Kind = Literal[
    "reset",  # RST in the middle of the answer
    "cut",  # FIN there
    "reset-request",  # RST in the middle of the request's body; before anything is done, if it has none
    "cut-request",  # FIN there
    "lost",  # the request is done, and RST comes in place of its answer
    "short",  # half of the range, in an answer that says so: wrong, but consistent with itself
    "flip",  # one bit of the answer's body
    "flip-request",  # one bit of the request's body
    "delay",  # before the request goes on
    "stall",  # in the middle of the answer's body, or before the answer if it has none
    "slow",  # both bodies, at that many bytes a second
    "status",  # a refusal in place of the answer; the request is not done
    "before",  # something else happens first, then the request is done
]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. at: where in the body, as a share of it."""

    kind: Kind
    at: float = 0.5
    seconds: float = 0.0
    bytes_per_s: int = 0
    status: int = 0
    code: str | None = None
    retry_after: int | None = None
    as_date: bool = False
    action: Callable[[], Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, fault: Fault | Kind | int) -> Fault:
        """A fault from its short form: a kind, or a status."""
        if isinstance(fault, Fault):
            return fault
        return cls("status", status=fault) if isinstance(fault, int) else cls(fault)

    def __str__(self) -> str:
        if self.kind != "status":
            return self.kind
        text = f"{self.status} {self.code}" if self.code else str(self.status)
        if self.retry_after is None:
            return text
        return f"{text} retry-after{'-date' if self.as_date else ''}"

    @property
    def retry_after_header(self) -> str | None:
        """The value of Retry-After: seconds, or a date."""
        if self.retry_after is None or not self.as_date:
            return None if self.retry_after is None else str(self.retry_after)
        return formatdate(time.time() + self.retry_after, usegmt=True)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived. target: path and query. nbytes: of its body."""

    method: str
    target: str
    range: str | None = None
    nbytes: int = 0

    def suffers(self, fault: Fault) -> bool:
        """Whether the fault means anything for this request."""
        match fault.kind:
            case "flip-request" | "reset-request" | "cut-request":
                return self.nbytes > 0
            case "short":
                return self.range is not None and self.method == "GET"
            case "flip" | "cut" | "slow":
                return self.method == "GET"
        return True

    @property
    def key(self) -> str:
        """What is the same in each run of one seed: no signature, no times."""
        url = urlsplit(self.target)
        query = [f"{k}={v}" for k, v in parse_qsl(url.query) if k not in ("sig", "se", "st", "sv")]
        return f"{self.method} {url.path}?{'&'.join(query)} {self.range}"


@dataclass
class Order:
    """A fault for the requests of a method whose target a pattern is found in: the nth and on."""

    fault: Fault
    method: str
    pattern: str
    nth: int
    times: int
    seen: int = 0

    def take(self, asked: Asked) -> Fault | None:
        """The fault, if this request is to meet it; counted by asking."""
        if asked.method != self.method or not re.search(self.pattern, asked.target):
            return None
        self.seen += 1
        return self.fault if self.nth <= self.seen < self.nth + self.times else None


class Chances:
    """Faults by chance, each request with `rate`; for a seed always the same ones.

    What a request meets depends on the seed, on itself and on how often it came before, and not on the
    order in which threads send theirs.
    """

    def __init__(self, seed: str, rate: float, faults: Sequence[Fault]) -> None:
        self._seed, self._rate, self._faults = seed, rate, faults
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, asked: Asked) -> Fault | None:
        """What this request is to meet, if anything."""
        key = asked.key
        with self._lock:
            self._seen[key] += 1
            chance = random.Random(f"{self._seed}|{key}|{self._seen[key]}")
        if chance.random() >= self._rate:
            return None
        fitting = [fault for fault in self._faults if asked.suffers(fault)]
        return replace(chance.choice(fitting), at=chance.random()) if fitting else None


AZURE_CODES = {
    401: "InvalidAuthenticationInfo",
    403: "AuthenticationFailed",
    500: "InternalError",
    503: "ServerBusy",
}
_XML = '<?xml version="1.0" encoding="utf-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
_BEARER = (
    "Bearer authorization_uri=https://login.microsoftonline.com/tenant/oauth2/authorize "
    "resource_id=https://storage.azure.com"
)


def refusal(fault: Fault, *, like: str) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body with which Azure, or the Hub, says a status."""
    text = "asked for by the test"
    headers = []
    if like == "hub":
        headers += [("Content-Type", "application/json"), ("X-Error-Message", text)]
        if fault.code:
            headers.append(("X-Error-Code", fault.code))
        body = b'{"error": "%s"}' % text.encode()
    else:
        code = fault.code or AZURE_CODES.get(fault.status, "")
        if code:
            headers += [("Content-Type", "application/xml"), ("x-ms-error-code", code)]
        body = _XML.format(code, text).encode() if code else b""
    if fault.status == 401:
        headers.append(("WWW-Authenticate", "Bearer" if like == "hub" else _BEARER))
    if fault.retry_after_header is not None:
        headers.append(("Retry-After", fault.retry_after_header))
    return headers, body
