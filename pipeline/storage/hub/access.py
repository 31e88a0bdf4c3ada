"""Whom the Hub takes us for, and whether they may push."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import AccessError, Unreachable
from pipeline.storage.hub.errors import FIRST_TRIES, explained
from pipeline.storage.hub.pushing import HubTarget
from pipeline.storage.retry import retried

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TIMEOUT_S = 20


def hub_user(token: str | None) -> tuple[str, str | None]:
    """The Hub's address, and the user that `token`, or `hf auth login`, stands for: None without either.

    Raises AccessError if the Hub refuses the token, Unreachable if it does not answer.
    """
    from huggingface_hub import HfApi, errors, get_token
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    api = HfApi(token=token)
    token = token or get_token()
    try:
        if token:
            return api.endpoint, str(api.whoami(token)["name"])
        get_session().get(f"{api.endpoint}/api/models?limit=1", timeout=_TIMEOUT_S)
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        answer = getattr(error, "response", None)
        if answer is not None and answer.status_code in (401, 403):
            raise AccessError(
                "the Hub refuses the token",
                where=api.endpoint,
                hint="make a new one at https://huggingface.co/settings/tokens and set HF_TOKEN, "
                "or run `hf auth login`; public models need none",
            ) from error
        raise Unreachable(
            f"the Hub does not answer as it should ({type(error).__name__})",
            where=api.endpoint,
            hint="check the network, proxies and HF_ENDPOINT",
        ) from error
    return api.endpoint, None


def check_may_push(target: HubTarget, token: str | None) -> None:
    """Raise AccessError if there is no token, or it may only read: before hours are spent."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    who = retried(lambda: _whoami(api, target), tries=FIRST_TRIES)
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise AccessError(
            "the token may only read",
            where=str(target),
            hint=f"make one with write permission at {api.endpoint}/settings/tokens, "
            "then set HF_TOKEN or run `hf auth login`",
        )


def _whoami(api: HfApi, target: HubTarget) -> dict[str, Any]:
    with explained(target.repo):
        return dict(api.whoami())
