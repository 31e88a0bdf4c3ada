"""What goes wrong on the Hub, in our own words.

The client's errors quote the address that was asked, and where a file's bytes lie that address is
signed: whoever has it can read the file. So ours name the repository, say what the Hub answered, and are
raised without their cause.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import (
    AccessError,
    NotFound,
    PipelineError,
    StorageError,
    Unreachable,
    UsageError,
)
from pipeline.storage.hub.refusals import LOG_IN, is_read, refusal
from pipeline.storage.retry import retry_after_s

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_TRY_AGAIN = "check the network and HF_ENDPOINT, then run the same command again"
FIRST_TRIES = 5  # of a Hub that has not answered yet: with the wrong address it never will
_PASSING = (408, 429, 500, 502, 503, 504)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


class Silent(Unreachable):
    """The Hub gives no answer at all."""


def repo_location(repo: str, revision: str | None = None) -> str:
    """A repository as people should see it in a message."""
    return f"hf://{repo}" + (f"@{revision}" if revision else "")


def unreachable(
    what: str, *, where: str, status: int = 0, headers: Mapping[str, str] | None = None
) -> Unreachable:
    """The error for an answer that may be another one next time, and how long it asks to wait."""
    return Unreachable(
        what,
        where=where,
        hint=_TRY_AGAIN,
        retry_after_s=_wait_asked_for(headers or {}),
        status=status or None,
    )


def silent(what: str, *, where: str) -> Silent:
    """The error for no answer."""
    return Silent(what, where=where, hint=_TRY_AGAIN)


def _wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """How many seconds a refusal asks to wait: by the Hub's own rate limits, or by Retry-After."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    return retry_after_s(headers.get("retry-after"))


@contextmanager
def explained(
    repo: str, revision: str | None = None, *, passing: type[Exception] = PipelineError
) -> Iterator[None]:
    """Turn what the client raises about `repo` into our own errors, but for `passing`."""
    try:
        yield
    except (PipelineError, passing):
        raise
    except Exception as error:
        inner = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(inner, (*_of_the_client(), PipelineError)):
            raise  # a bug of ours
        raise explain(error, repo, revision) from None


def _of_the_client() -> tuple[type[Exception], ...]:
    """What the client raises; ValueErrors are of names, and of answers that are no JSON."""
    from huggingface_hub import errors

    return (
        errors.HTTPError,  # type: ignore[attr-defined]
        OSError,
        errors.HFValidationError,
        errors.OIDCError,
        errors.DeviceCodeError,
        json.JSONDecodeError,
    )


def explain(error: BaseException, repo: str, revision: str | None = None) -> PipelineError:
    """Our own error for one of the client's."""
    from huggingface_hub import errors

    where = repo_location(repo, revision)
    cause = error.__cause__
    if isinstance(error, errors.HFValidationError):
        return UsageError(
            "is not a repository's name", where=where, hint="write org/name, as the Hub's page has it"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return AccessError("the Hub is not to be asked", where=where, hint="unset HF_HUB_OFFLINE")
    if isinstance(error, errors.LocalTokenNotFoundError):
        return AccessError("there is no token for the Hub", where=where, hint=LOG_IN)
    if isinstance(error, errors.OIDCError | errors.DeviceCodeError):
        what = f"the Hub's client could not get a token: {type(error).__name__}"
        return AccessError(what, where=where, hint=LOG_IN)
    if isinstance(error, errors.LocalEntryNotFoundError):
        if isinstance(cause, errors.HTTPError):  # type: ignore[attr-defined]
            return explain(cause, repo, revision)
        return NotFound(
            "is not in the local cache, and the Hub is not to be asked or does not answer",
            where=where,
            hint="unset HF_HUB_OFFLINE, or download it first with `hf download`",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_answer(error, repo, where)
    if isinstance(error, RuntimeError) and cause is not None:  # the client wraps what fails an upload
        return cause if isinstance(cause, PipelineError) else explain(cause, repo, revision)
    if isinstance(error, OSError) and error.errno in (*_NO_ROOM, *_NO_RIGHT):
        full = error.errno in _NO_ROOM
        return StorageError(
            "there is no space left in the Hub's cache" if full else "the Hub's cache can't be written",
            where=where,
            hint="use --hub-cache off, or set HF_HUB_CACHE to another folder",
        )
    if isinstance(error, json.JSONDecodeError):
        return unreachable("what answers is not the Hub: it speaks no JSON", where=where)
    return silent(f"the Hub gives no answer: {type(error).__name__}", where=where)


def _explain_answer(error: HfHubHTTPError, repo: str, where: str) -> PipelineError:
    """Our own error for an answer that is none, or that refuses."""
    from huggingface_hub import constants

    status, headers = error.response.status_code, error.response.headers
    if not str(error.response.request.url).startswith(f"{constants.ENDPOINT}/"):
        what = f"the host that the Hub sends us to for its bytes answers {status}"
        return unreachable(what, where=where, status=status, headers=headers)
    if (known := refusal(error, repo, where)) is not None:
        return known
    if status in _PASSING or is_read(error):
        what = f"the Hub did not answer as it should: {status}"
        return unreachable(what, where=where, status=status, headers=headers)
    said = f": {error.server_message}" if error.server_message else ""
    hint = f"see {constants.ENDPOINT}/{repo}"
    return StorageError(f"the Hub refused ({status}){said}", where=where, hint=hint)
