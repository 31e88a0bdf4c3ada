"""Questions to the services that a run will need, asked by themselves: do they answer, and as whom?"""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime

from pipeline.errors import AccessError, Unreachable
from pipeline.storage.azure.refusals import unreached

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
