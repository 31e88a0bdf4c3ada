"""Why Azure refused access, and what to do: from the service's own code, the request, and the clocks."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipeline.errors import AccessError
from pipeline.storage.azure.sign_in import ROLE, claims, wrong_tenant
from pipeline.storage.errors import Reason
from pipeline.storage.locations import is_loopback

SKEW_S = 300  # a clock that is off by more may be why; Azure itself allows 15 minutes

# What the service's codes mean, and the next step. {who}, {has} and {account} come from the request.
_CODES = {
    "AuthorizationPermissionMismatch role": Reason(
        "the identity{who} lacks a role that allows this",
        f"give it the role: az role assignment create --role '{ROLE}' --assignee ID --scope ACCOUNT-ID; "
        "it counts after up to ten minutes",
    ),
    "AuthorizationPermissionMismatch": Reason(
        "the SAS does not allow this{has}",
        "make one with the permissions rwlc, with rwdlc to write a model's folder",
    ),
    "AuthorizationResourceTypeMismatch": Reason(
        "the SAS is not for this kind of resource",
        "make an account SAS with the resource types sco, or a container's SAS",
    ),
    "AuthorizationServiceMismatch": Reason("the SAS is not for blobs", "make one with the service b"),
    "AuthorizationSourceIPMismatch": Reason(
        "the SAS is for other IP addresses than this machine's",
        "make one without --ip, or with the address that this machine has on the internet",
    ),
    "AuthorizationProtocolMismatch": Reason(
        "the SAS is for HTTPS only", "write the address with https://"
    ),
    "AuthorizationFailure": Reason(
        "the account's firewall does not let this machine in",
        "add its address: az storage account network-rule add --account-name {account} "
        "--ip-address IP; or run where the account's network or private endpoint is",
    ),
    "KeyBasedAuthenticationNotPermitted": Reason(
        "the account takes no keys, nor SAS tokens made by them",
        "unset the connection string, key and SAS token, and sign in with `az login`; "
        f"the identity needs the role {ROLE}",
    ),
    "AccountIsDisabled": Reason("the account is disabled", "ask its owner; the portal says why"),
    "InsufficientAccountPermissions": Reason(
        "the credential does not reach this account's blobs",
        "make an account SAS with --services b --resource-types sco, or use the account key",
    ),
    "AuthenticationFailed key": Reason(
        "the account key was refused",
        "compare it: az storage account keys list --account-name {account}; it may have been renewed",
    ),
    "AuthenticationFailed sas": Reason(
        "the signature of the SAS was refused",
        "make a new one: this is incomplete, or the key that signed it was renewed",
    ),
    "AuthenticationFailed role": Reason(
        "the access token was refused",
        "sign in again: az login; then `cli.py doctor`",
    ),
}
_CODES["NoAuthenticationInformation"] = _CODES["PublicAccessNotPermitted"] = Reason(
    "the request had no credential, and the account wants one",
    "see .env.example for the ways to sign in, and run `cli.py doctor`",
)
_OTHER = Reason(
    "access was refused ({code})",
    f"the identity needs the role {ROLE}, or a SAS with rwlc; with rwdlc to write a model's folder",
)
_SCHEMES = {"sharedkey": "key", "sharedkeylite": "key", "bearer": "role"}


@dataclass(frozen=True, slots=True)
class _Request:
    """What is known of a refused request. way: key, sas, role, or "" for none; claims: the token's."""

    url: str
    way: str
    answered: datetime | None
    sas: dict[str, str] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    challenge: str = ""

    @classmethod
    def of(cls, error: Any) -> _Request:
        answer = getattr(error, "response", None)
        request = getattr(answer, "request", None)
        headers = getattr(answer, "headers", None) or {}
        url = str(getattr(request, "url", ""))
        scheme, _, value = str(
            (getattr(request, "headers", None) or {}).get("Authorization", "")
        ).partition(" ")
        sas = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        way = _SCHEMES.get(scheme.lower(), "sas" if "sig" in sas else "")
        return cls(
            url,
            way,
            _date(headers.get("Date")),
            sas if way == "sas" else {},
            claims(value) if way == "role" else {},
            str(headers.get("WWW-Authenticate", "")),
        )


def refusal(error: Any, code: str, where: str) -> AccessError:
    """What the refused request `error` comes to: clocks and dates first, then the service's `code`."""
    request = _Request.of(error)
    if "AzureSigning" in type(error).__name__:
        return AccessError(
            "the account key is none",
            where=where,
            hint="copy it whole: az storage account keys list --account-name NAME",
        )
    host = urlsplit(request.url).hostname or ""
    # Azurite says AuthorizationFailure of any credential; it has no firewall.
    if code == "InvalidAuthenticationInfo" or (code == "AuthorizationFailure" and is_loopback(host)):
        code = "AuthenticationFailed"
    for reason in (_by_dates(request, code), _by_tenant(request)):
        if reason:
            what, hint = reason
            return AccessError(f"{what} ({code})", where=where, hint=hint)
    what, hint = _CODES.get(f"{code} {request.way}") or _CODES.get(code) or _OTHER
    values = {"account": host.partition(".")[0], "code": code, "has": _has(request)}
    values["who"] = _who(request.claims)
    what = what.format(**values)
    return AccessError(
        what if code in what else f"{what} ({code})", where=where, hint=hint.format(**values)
    )


def skew(date: datetime | None) -> float | None:
    """By how many seconds our clock is ahead of a server's that answered now; None if not by much."""
    ahead = time.time() - date.timestamp() if date else 0.0
    return ahead if abs(ahead) > SKEW_S else None


def clock_text(ahead: float) -> str:
    """A clock's error as people say it."""
    minutes = abs(ahead) / 60
    much = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
    return f"this machine's clock is {much} {'ahead' if ahead > 0 else 'behind'}"


def _by_dates(request: _Request, code: str) -> Reason | None:
    """A SAS that is over or has not begun, or clocks that differ."""
    now = request.answered or datetime.now(UTC)
    ends, begins = (_iso(request.sas.get(name)) for name in ("se", "st"))
    if ends and ends <= now:
        return Reason(f"the SAS expired at {ends:%Y-%m-%d %H:%M} UTC", "make a new one")
    if begins and begins > now:
        what = f"the SAS is valid only from {begins:%Y-%m-%d %H:%M} UTC"
        return Reason(what, "wait, or make one with an earlier start")
    ahead = skew(request.answered)
    if ahead is not None and request.way != "sas" and code == "AuthenticationFailed":
        hint = "set it: timedatectl set-ntp true; signatures and tokens hold the time"
        return Reason(clock_text(ahead), hint)
    return None


def _by_tenant(request: _Request) -> Reason | None:
    """A token of another tenant than the account's."""
    theirs = re.search(r"authorization_uri=\"?https?://[^/\s]+/([\w.-]+)", request.challenge)
    ours = str(request.claims.get("tid", ""))
    if request.way == "role" and theirs and ours and theirs[1] != ours:
        return wrong_tenant(theirs[1], f"the token is one of tenant {ours}")
    return None


def _who(claims: dict[str, Any]) -> str:
    """The signed-in identity by its ids, which are no secrets."""
    for name in ("oid", "appid", "azp"):
        if value := claims.get(name):
            return f" {value}"
    return ""


def _has(request: _Request) -> str:
    permissions = request.sas.get("sp", "")
    return f": its permissions are {permissions}" if permissions.isalpha() else ""


def _date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None


def _iso(text: str | None) -> datetime | None:
    """A time of a SAS, which may lack the seconds or the whole time of day."""
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found and found.tzinfo is None else found
