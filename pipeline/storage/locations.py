"""Locations: the strings by which people name checkpoints, deltas and folders.

| written | means |
|---|---|
| `org/name`, `org/name@revision`, `hf://org/name@revision` | a model on the Hub |
| `org/name/file.gguf`, `org/name@revision/file.gguf` | one GGUF file of a repository that has several |
| `./dir`, `/dir`, `../x`, `file:///dir` | local |
| `az://container/path` | Azure, account from the environment |
| `https://ACCOUNT.blob.core.windows.net/container/path` | Azure, account in the URL |
| `deltas/x.safetensors` for a delta | a name in the store |

For a model, an existing local path wins over a Hub id of the same text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import UsageError
from pipeline.storage.names import safe_name

_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)(?:@(?P<revision>[\w./-]+?))?"
    r"(?:/(?P<file>[\w.-]+\.gguf))?"
)

_MAX_CHARS = 4096  # of a path on the systems that we know, and of any URL that works


class Scheme(Enum):
    """Which kind of place a location is in."""

    HUB = "hub"
    LOCAL = "local"
    AZURE = "azure"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed location; `str()` of it is safe to show, for a SAS in its URL is kept apart.

    path: repository id, file path, or blob path inside the container or the store. file: of a
    repository, the one file that is meant.
    account_url, container, sas: for Azure only; no account_url means the environment's account.
    """

    scheme: Scheme
    path: str
    revision: str | None = None
    account_url: str | None = None
    container: str | None = None
    sas: str | None = field(default=None, repr=False)
    file: str | None = None

    def __str__(self) -> str:
        match self.scheme:
            case Scheme.HUB:
                revision = f"@{self.revision}" if self.revision else ""
                return f"hf://{self.path}{revision}" + (f"/{self.file}" if self.file else "")
            case Scheme.AZURE if self.account_url:
                return f"{self.account_url}/{self.container}/{self.path}".rstrip("/")
            case Scheme.AZURE:
                return f"az://{self.container}/{self.path}".rstrip("/")
        return self.path


def parse_model(text: str) -> Location:
    """The location of a model to read. Raises UsageError if `text` cannot be one."""
    if (location := _parse_explicit(text)) is not None:
        return location
    if Path(text).exists():
        return Location(Scheme.LOCAL, text)
    match = _HUB_ID.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text.partition('?')[0]!r} is neither a folder that exists nor a Hub id",
            hint="write org/name, org/name@revision, ./folder or az://container/path",
        )
    return _hub(match)


def parse_delta(text: str) -> Location:
    """The location of a delta; a plain relative name is one in the store. Raises UsageError."""
    location = _parse_explicit(text) or Location(Scheme.STORE, safe_name(text))
    if location.scheme is Scheme.HUB:
        raise UsageError(f"deltas are not read from the Hub: {text!r}", hint="download it first")
    return location


def parse_output_model(text: str) -> Location:
    """The location of a model to write: local unless it names a container. Raises UsageError."""
    location = _parse_explicit(text) or Location(Scheme.LOCAL, text)
    if location.scheme is Scheme.HUB:
        raise UsageError(f"models are not written to the Hub: {text!r}", hint="write to a folder")
    return location


def split_scale(text: str) -> tuple[str, str | None]:
    """The location and the scale's text in "DELTA" or "DELTA=SCALE".

    A URL with a query keeps its equals signs: such a delta's scale is given by itself.
    """
    location, equals, scale = text.rpartition("=")
    if not equals or ("://" in text and "?" in text):
        return text, None
    return location, scale


def _parse_explicit(text: str) -> Location | None:
    """The location, if `text` itself says which kind it is."""
    if not text or len(text) > _MAX_CHARS or any(ord(char) < 32 for char in text):
        shown = text.partition("?")[0][:80]  # what follows a question mark may be a secret
        raise UsageError(f"{shown!r} is not a location", hint="write org/name, ./folder or az://...")
    if text.startswith(("/", "./", "../", "~/")) or text in (".", ".."):
        return Location(Scheme.LOCAL, str(Path(text).expanduser()) if text[0] == "~" else text)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return None
    match scheme:
        case "file":
            return Location(Scheme.LOCAL, unquote(urlsplit(text).path))
        case "hf":
            match = _HUB_ID.fullmatch(rest)
            if match is None:
                raise UsageError(f"{text!r} is not a Hub location", hint="write hf://org/name@revision")
            return _hub(match)
        case "az":
            container, _, path = rest.partition("/")
            return _azure(text, None, container, path, None)
        case "http" | "https":
            return _parse_azure_url(text)
    raise UsageError(
        f"{scheme}:// is not a kind of location", hint="use hf://, az://, https://, file://"
    )


def _hub(match: re.Match[str]) -> Location:
    return Location(Scheme.HUB, match["repo"], match["revision"], file=match["file"])


def _parse_azure_url(text: str) -> Location:
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError:
        raise UsageError(f"{text.partition('?')[0]!r} is not a URL") from None
    parts = unquote(url.path).strip("/").split("/")
    account_url = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
    local = is_loopback(host)
    if local:  # an emulator: the account is the path's first part
        account_url = f"{account_url}/{parts.pop(0)}"
    elif url.scheme == "http":
        raise UsageError("http would send credentials in the clear", where=account_url, hint="use https")
    container, path = parts[0] if parts else "", "/".join(parts[1:])
    return _azure(account_url, account_url, container, path, url.query or None)


def _azure(shown: str, account_url: str | None, container: str, path: str, sas: str | None) -> Location:
    if "?" in container + path:  # it would be kept as a part of the name
        raise UsageError(
            "a name cannot have a question mark, nor a SAS behind it",
            where=shown.partition("?")[0],
            hint="write https://ACCOUNT.blob.core.windows.net/container/path?SAS, the mark as it is",
        )
    if not re.fullmatch(r"[a-z0-9](?:-?[a-z0-9]){2,62}|\$web|\$root", container):
        raise UsageError(
            f"{container!r} is not a container's name",
            where=shown,
            hint="3 to 63 lower-case letters, digits and single hyphens: az://container/path",
        )
    path = path.strip("/")
    return Location(Scheme.AZURE, safe_name(path) if path else "", None, account_url, container, sas)


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, as an emulator's is."""
    if host in ("localhost", "azurite"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name, such as 127.example.com: anybody's
        return False


def parse_store(text: str) -> Location:
    """The location of a store: a folder or a container, perhaps with a path in it."""
    return parse_output_model(text)
