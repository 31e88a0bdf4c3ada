"""Secrets kept out of everything that is shown or kept: messages, tracebacks, logs, reports.

Two kinds are replaced by a mark. What looks like one: account keys, signatures of SAS tokens, bearer and
Hub tokens, JWTs, private keys, passwords in URLs. And what is known to be one, whatever it looks like:
the settings say which values they hold (`know`), and those are replaced as they are, percent-encoded and
in base64.

    with redacting():      # nothing that this process prints or logs shows a secret
        ...
"""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote

MARK = "[secret]"

_MIN_CHARACTERS = 8  # of known values: shorter ones are words, and text would lose its sense
_MAX_KNOWN = 64  # values; a process has a handful, a test run would gather thousands

_FIELDS = (
    "client_secret|client_assertion|assertion|refresh_token|access_token|accessToken|id_token"
    "|account_?key|password"
)
_PRIVATE = "[A-Z ]*PRIVATE KEY-----"
_CREDENTIAL = r"(?!authorization_uri|error|realm|resource)[\w+/=.~:-]{16,}"
# Each with a word that is in the text, in lower case, if it can match at all; and with what takes its
# place, \1 being what stands before the secret.
_PATTERNS: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (word, re.compile(pattern, re.I if flags == "i" else 0), replacement + MARK)
    for word, pattern, flags, replacement in (
        (
            "private key",
            r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)(?s:.*?)-----END [A-Z ]*PRIVATE KEY-----",
            "",
            r"\1",
        ),
        ("accountkey", r"\b(AccountKey(?:=|%3D))[^\s;'\"]+", "i", r"\1"),
        ("sharedaccess", r"\b(SharedAccessSignature(?:=|%3D))[^\s;'\"]+", "i", r"\1"),
        ("signature", r"(Signature(?:=|%3D))[^\s&;'\"<>)]+", "i", r"\1"),  # of the Hub's CDN
        ("sig", r"\b(sig(?:=|%3D))[^\s&;'\"<>)]+", "i", r"\1"),
        ("=", rf"\b((?:{_FIELDS})=)[^\s&;,'\"()]+", "i", r"\1"),
        (":", rf"([\"'](?:{_FIELDS})[\"']\s*:\s*[\"'])[^\"']+", "i", r"\1"),
        ("bearer", rf"\b(Bearer\s+){_CREDENTIAL}", "i", r"\1"),
        ("basic", rf"\b(Basic\s+){_CREDENTIAL}", "i", r"\1"),
        ("eyj", r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?", "", ""),
        ("hf_", r"\bhf_[A-Za-z0-9]{16,}", "", ""),
        ("gh", r"\b(?:gh[pousr]_|github_pat_)\w{20,}", "", ""),
        ("==", r"(?<![\w+/])[A-Za-z0-9+/]{86}==", "", ""),  # 64 bytes: an account key
        ("@", r"\b((?:https?|socks5h?)://)[^\s/@'\"?#]+(?=@)", "i", r"\1"),
    )
)

_lock = threading.Lock()
_known: dict[str, tuple[str, ...]] = {}  # each with the forms that it may take; the oldest go first


def know(*values: str | None) -> None:
    """Take these values for secrets from now on. None and very short ones are passed over."""
    for value in values:
        if value and len(value) >= _MIN_CHARACTERS and value not in _known:
            forms = tuple(sorted(_forms(value), key=len, reverse=True))
            with _lock:
                _known[value] = forms
                while len(_known) > _MAX_KNOWN:
                    del _known[next(iter(_known))]


def know_sas(*tokens: str | None) -> None:
    """Take the signatures of SAS tokens for secrets; the rest of a token is none."""
    for token in tokens:
        know(*re.findall(r"\bsig=([^&;\s]+)", token or ""))


def know_connection_string(text: str | None) -> None:
    """Take the secret parts of a connection string for secrets, and the whole."""
    for part in (text or "").split(";"):
        name, _, value = part.partition("=")
        if name.lower() == "accountkey":
            know(value)
        know_sas(part)
    know(text)


def _forms(value: str) -> Iterable[str]:
    """The ways in which `value` may be written."""
    plain = {value, unquote(value)}
    encoded = {quote(form, safe=safe) for form in plain for safe in ("", "/")}
    lower = {re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), form) for form in encoded}
    codes = {base64.b64encode(form.encode()).decode().rstrip("=") for form in plain}
    escaped = {text[1:-1] for form in plain for text in (json.dumps(form), repr(form))}
    return plain | encoded | lower | codes | escaped


def redact(text: str) -> str:
    """`text` with a mark in the place of each secret."""
    for forms in tuple(_known.values()):
        for form in forms:
            if form in text:
                text = text.replace(form, MARK)
    lower = text.lower()
    for word, pattern, replacement in _PATTERNS:
        if word in lower:
            text = pattern.sub(replacement, text)
    return text


class RedactedRecord(logging.LogRecord):
    """A log record that is redacted when it is made, whatever logger and handler it meets."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        try:
            self.msg = redact(super().getMessage())
            self.args = None
        except (TypeError, ValueError, KeyError):
            pass  # a message that does not fit its arguments: logging itself says so
        if self.exc_info and self.exc_info[0] is not None:
            self.exc_text = redact("".join(traceback.format_exception(*self.exc_info)).rstrip("\n"))
        if self.stack_info:
            self.stack_info = redact(self.stack_info)


class RedactedStream:
    """A text stream in front of another; what is written to it arrives without secrets."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, redacted; the count is that of `text` itself."""
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of `lines`, redacted."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def redacting() -> Iterator[None]:
    """Redact what is printed and logged in this process, until the end of the block."""
    streams, factory = (sys.stdout, sys.stderr), logging.getLogRecordFactory()
    sys.stdout, sys.stderr = (RedactedStream(stream) for stream in streams)
    logging.setLogRecordFactory(RedactedRecord)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        logging.setLogRecordFactory(factory)
