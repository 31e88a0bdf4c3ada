"""Why the Hub refused, and what to do: by the client's name for it, its status, and what was asked."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import AccessError, NotFound, OutputExists, PipelineError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

LOG_IN = "set HF_TOKEN or run `hf auth login`"
_TOKEN = "the request had a token"
_READ = "the request was to read"
_DENIED = "401 or 403"


class Moved(PipelineError):
    """A branch that got another commit since it was looked at."""


class _Refusal(NamedTuple):
    """What an answer means that has all these marks. {page} and {tokens} are the Hub's own."""

    marks: Set[str]
    error: type[PipelineError]
    what: str
    hint: str | None


# The first that fits counts.
_REFUSALS = (
    _Refusal(
        {"401", _TOKEN},
        AccessError,
        "the Hub refused the token: it is mistyped, has expired or was revoked",
        f"make a new one at {{tokens}}, then {LOG_IN}",
    ),
    _Refusal(
        {"GatedRepoError", _TOKEN},  # a kind of RepositoryNotFoundError
        AccessError,
        "is gated, and its owner has not granted access to whom the token belongs to",
        "ask for access at {page}, and use a token of that account as HF_TOKEN",
    ),
    _Refusal(
        {"GatedRepoError"},
        AccessError,
        "is gated: its owner must grant you access, and a token must say who you are",
        f"ask for access at {{page}}, then {LOG_IN}",
    ),
    _Refusal({"DisabledRepoError"}, AccessError, "was disabled by the Hub", "see {page}"),
    _Refusal(
        {"RevisionNotFoundError"},
        NotFound,
        "no such revision",
        "check the branch, tag or commit: {page}/tree/main lists them",
    ),
    _Refusal(
        {"RepositoryNotFoundError", _TOKEN},
        NotFound,
        "no such model on the Hub, or it is private and the token does not reach it",
        "check the spelling, or set HF_TOKEN to one of an account that may read it; "
        "write ./name for a local folder",
    ),
    _Refusal(
        {"RepositoryNotFoundError"},
        NotFound,
        "no such model on the Hub, or it is private",
        f"check the spelling; for a private one {LOG_IN}; write ./name for a local folder",
    ),
    _Refusal({"EntryNotFoundError"}, NotFound, "no such file in the repository", None),
    _Refusal({"412"}, Moved, "got another commit meanwhile", "run it again if it is still wanted"),
    _Refusal({"409"}, OutputExists, "already exists", "name another repository"),
    _Refusal(
        {_DENIED, _READ, _TOKEN},
        AccessError,
        "the Hub does not let this token read it",
        "see its permissions at {tokens}",
    ),
    _Refusal({_DENIED, _READ}, AccessError, "the Hub wants a token", LOG_IN),
    _Refusal(
        {_DENIED, _TOKEN},
        AccessError,
        "the token may not write there",
        f"make one with write permission at {{tokens}}, then {LOG_IN}",
    ),
    _Refusal(
        {_DENIED},
        AccessError,
        "pushing needs a token",
        f"make one with write permission at {{tokens}}, then {LOG_IN}",
    ),
)


def refusal(error: HfHubHTTPError, repo: str, where: str) -> PipelineError | None:
    """Our own error for an answer of the Hub that says why it refuses; None for any other."""
    from huggingface_hub import constants

    marks = _marks(error)
    found = next((each for each in _REFUSALS if each.marks <= marks), None)
    if found is None:
        return None
    hub = constants.ENDPOINT
    hint = found.hint and found.hint.format(page=f"{hub}/{repo}", tokens=f"{hub}/settings/tokens")
    return found.error(found.what, where=where, hint=hint)


def is_read(error: HfHubHTTPError) -> bool:
    """Whether what was refused was only to read."""
    return error.response.request.method in ("GET", "HEAD")


def _marks(error: HfHubHTTPError) -> set[str]:
    """What tells one refusal from another: the client's classes of it, by name, among others."""
    status = error.response.status_code
    said = {
        _TOKEN: "authorization" in error.response.request.headers,
        _READ: is_read(error),
        _DENIED: status in (401, 403),
    }
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return kinds | {str(status)} | {mark for mark, is_so in said.items() if is_so}
