"""Whether anything answers at an account's address, and if not, why."""

from __future__ import annotations

import re
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pipeline.errors import Unreachable
from pipeline.storage.errors import Reason

_TIMEOUT_S = 20


def server_time(url: str) -> datetime | None:
    """The time that the server at `url` says it is; None if it does not say. Raises Unreachable.

    Any answer will do, so no credential is sent.
    """
    import requests

    try:
        answer = requests.get(url, timeout=_TIMEOUT_S, allow_redirects=False)
    except requests.RequestException as error:
        what, hint = unreached(error)
        raise Unreachable(what, where=url, hint=hint) from error
    try:
        return parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return None


def unreached(error: Any) -> Reason:
    """What went wrong on the way to the account, and what to do."""
    text = str(error)
    if re.search(r"NameResolution|getaddrinfo|Name or service not known|Failed to resolve", text):
        return Reason(
            "there is no such account, or no way to look its name up",
            "check the account's name and the network, then run the command again",
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return Reason(
            "the certificate of the storage account, or of a proxy, is not trusted",
            "name the authority's certificate in REQUESTS_CA_BUNDLE",
        )
    return Reason(
        f"the storage account does not answer ({type(error).__name__})",
        "check the account's name, the network and proxies, then run the command again",
    )
