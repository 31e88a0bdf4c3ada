"""Why nobody could be signed in to Microsoft Entra, and what to do: from its own codes."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from pipeline.errors import AccessError
from pipeline.storage.errors import Reason

ROLE = "Storage Blob Data Contributor"

# Codes of Microsoft Entra, at the beginning of AADSTS...
_SIGN_IN = {
    "7000215": Reason(
        "the client secret is wrong",
        "set AZURE_CLIENT_SECRET to the secret's value, not its id",
    ),
    "7000222": Reason("the client secret has expired", "make a new one: az ad app credential reset"),
    "700016": Reason(
        "the tenant does not know this application",
        "compare AZURE_CLIENT_ID and AZURE_TENANT_ID with `az ad sp show --id CLIENT`",
    ),
    "90002": Reason("there is no such tenant", "compare AZURE_TENANT_ID with `az account show`"),
    "70021": Reason(
        "no federated credential of the application fits this token's issuer, subject and audience",
        "compare with `az ad app federated-credential list --id CLIENT`; see docs/azure.md",
    ),
    "700024": Reason(
        "the ID token that signs in has expired",
        "leave out azure/login and let this tool fetch fresh ones; see docs/azure.md",
    ),
}
_SIGN_IN["700211"] = _SIGN_IN["700212"] = _SIGN_IN["700213"] = _SIGN_IN["70021"]


def no_token(error: Any) -> AccessError:
    """Why nobody could be signed in, so that nothing was asked of the account."""
    text = str(getattr(error, "message", "") or error)
    if other := re.search(r"not configured to acquire tokens for tenant ([\w.-]+)", text):
        what, hint = wrong_tenant(other[1].rstrip("."), "the identity is one of another tenant")
        return AccessError(what, hint=hint)
    if found := re.search(r"AADSTS(\d+)", text):
        what, hint = _SIGN_IN.get(
            found[1], Reason("signing in was refused", "look the code up, or `az login`")
        )
        return AccessError(f"{what} (AADSTS{found[1]})", hint=hint)
    tried = re.findall(r"^\t(\w+?)(?:Credential)?:", text, re.MULTILINE)
    return AccessError(
        "no credential was found" + (f"; tried: {', '.join(tried)}" if tried else ""),
        hint="sign in with `az login`, or set AZURE_STORAGE_CONNECTION_STRING, "
        "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN; then `cli.py doctor`",
    )


def wrong_tenant(theirs: str, what: str) -> Reason:
    """What to say of an identity that is not of the tenant `theirs`, and what to do."""
    return Reason(
        f"{what}, the account belongs to tenant {theirs}",
        f"sign in to that one: az login --tenant {theirs}, or AZURE_TENANT_ID={theirs}",
    )


def claims(token: str) -> dict[str, Any]:
    """What a JWT says, unchecked; nothing if it is none."""
    try:
        part = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
